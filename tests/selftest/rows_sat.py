"""Faults of the SAT backend, mostly judged across stacks: a defective SAT against Diffusers."""

from __future__ import annotations

from harness.records import Component
from tests.selftest.row import Fault, SecondRender
from tests.selftest.setting import (
    SAT_FIVE,
    SAT_FIVE_BF16,
    SAT_FIVE_OWN,
    SAT_TWO,
    SAT_TWO_BF16,
    SAT_TWO_OWN,
    Setting,
)

_BLOCKS = "transformer.transformer_blocks"
_ANY = (SAT_TWO, SAT_FIVE)
_BACK = (SAT_FIVE, SAT_TWO)
_OWN = (SAT_TWO_OWN, SAT_FIVE_OWN)
_OWN_BACK = (SAT_FIVE_OWN, SAT_TWO_OWN)
_LONG = Setting("micro-2b", "sat", "diffusers", match="shared", case=("frames=17",))


def _transformer(
    name: str, summary: str, block: str, settings: tuple[Setting, ...], field: str | None = None
) -> Fault:
    where = f"{_BLOCKS}.{block}" if block[:1].isdigit() else f"transformer.{block}"
    return Fault(
        f"sat_{name}", "sat_transformer", summary, "transformer", settings,
        "tests.selftest.faults.sat_transformer", block=where, field=field,
    )  # fmt: skip


def _stage(
    name: str,
    summary: str,
    component: Component,
    settings: tuple[Setting, ...],
    key: str | None = None,
    field: str | None = None,
    block: str | None = None,
    also: tuple[Component, ...] = (),
    second: SecondRender | None = None,
) -> Fault:
    return Fault(
        f"sat_{name}", f"sat_{component}", summary, component, settings,
        "tests.selftest.faults.sat_stages", config_key=key, field=field, block=block, also=also,
        second_render=second,
    )  # fmt: skip


ROWS = (
    _transformer("query_key_swapped", "query and key exchanged", "0", _ANY, "W01"),
    _transformer("key_value_swapped_in_block_2", "key and value exchanged in block 2", "2",
                 (SAT_FIVE_BF16, SAT_FIVE), "W01"),
    _transformer("modulation_streams_swapped", "the text's vectors first", "0", _ANY, "W11"),
    _transformer("modulation_as_two_norms", "vectors as Diffusers has them", "0", _BACK, "W02"),
    _transformer("shift_scale_swapped_in_block_4", "scale taken for shift in block 4", "4", _ANY),
    _transformer("query_norm_of_other_block", "block 3 with block 2's query norm", "3", _BACK),
    _transformer("key_norm_missing_in_block_1", "block 1 without key norm", "1", _ANY),
    _transformer("dense_bias_lost", "block 2's output bias not loaded", "2",
                 (SAT_TWO_BF16, SAT_TWO)),
    _transformer("value_bias_lost", "block 0's value bias not loaded", "0", _BACK),
    _transformer("head_lost", "one head of block 5 contributes nothing", "5", _ANY),
    _transformer("layers_exchanged", "feed-forwards of blocks 1 and 2 exchanged", "1", _BACK),
    _transformer("activation_exact", "exact GELU", "0", _ANY, "X24"),
    _transformer("norm_epsilon", "block norms with eps 1e-3", "0", _BACK),
    _transformer("final_norm_epsilon", "last norm with eps 1e-2", "norm_out", _ANY),
    _transformer("final_shift_scale_swapped", "shift and scale of the last norm exchanged",
                 "norm_out", _BACK),
    _transformer("unpatch_transposed", "rows and columns of a patch exchanged", "proj_out", _ANY,
                 "X14"),
    _transformer("patch_bias_lost", "patch embedding's bias not loaded", "patch_embed", _BACK),
    _transformer("time_sine_first", "sines before cosines", "time_embedding", _ANY),
    _transformer("gate_dropped", "block 3 without attention gate", "3", _BACK),
    _transformer("residual_scaled", "block 2's video stream 2 % too large", "2",
                 (SAT_TWO_BF16, SAT_TWO)),
    _transformer("block_skipped", "block 4 skipped", "4", _BACK, "X25"),
    _transformer("block_bf16", "block 1 in bfloat16 in a float32 run", "1", _ANY),
    _transformer("feed_forward_relu", "ReLU in block 0", "0", _BACK),
    _transformer("rope_axes_swapped", "rows and columns exchanged", "0", (SAT_FIVE,), "X10"),
    _transformer("rope_frame_late", "third latent frame placed on the second", "0", (SAT_FIVE,)),
    _transformer("rope_bf16", "rotary tables in bfloat16 in a float32 run", "0", (SAT_FIVE,), "X11"),
    _transformer("rope_half_split", "channels paired half and half", "0", (SAT_FIVE,), "X06"),
    _transformer("table_shifted", "table one token late", "patch_embed", (SAT_TWO,), "X08"),
    _transformer("table_missing", "no position table", "patch_embed", (SAT_TWO,), "W06"),
    _stage("text_half", "embedding through float16", "text", _OWN, field="T01"),
    _stage("text_scaled", "embedding 1 % too large", "text", _OWN_BACK),
    _stage("text_cut", "cut after six tokens", "text", _OWN, field="T11"),
    _stage("unconditional_encoded", "T5 of the empty prompt, not zeros", "text", _OWN_BACK,
           field="T04"),
    _stage("schedule_shift_of_5b", "the 5B's SNR shift in the 2B", "schedule", (SAT_TWO_OWN,),
           "scheduler.snr_shift_scale", "C01"),
    _stage("schedule_shift_of_2b", "the 2B's SNR shift in the 5B", "schedule", (SAT_FIVE_OWN,),
           "scheduler.snr_shift_scale", "C01"),
    _stage("schedule_beta_end", "last beta 0.02", "schedule", _OWN, "scheduler.beta_end"),
    _stage("schedule_denoiser_only", "the denoiser's table with another shift", "schedule",
           _OWN_BACK, also=("solver",)),
    _stage("solver_first_order", "DPM without its second order", "solver", (SAT_FIVE,),
           field="S02"),
    _stage("solver_clean_clipped", "clean sample clipped to [-1, 1]", "solver", _ANY),
    _stage("solver_noise_weak", "step noise 2 % too weak", "solver", (SAT_FIVE_BF16, SAT_FIVE),
           also=("noise",)),
    _stage("solver_middle_step", "step 4's result 1 % too large", "solver", (SAT_TWO_BF16, SAT_TWO)),
    _stage("loop_latents_bf16", "latents kept in bfloat16 in a float32 run", "loop", _ANY),
    _stage("loop_result_scaled", "decoded latents 2 % too small", "loop", _BACK),
    _stage("scale_factor", "the 2B's scale factor in the 5B", "decoder", (SAT_FIVE,),
           "vae.scaling_factor", "W05"),
    _stage("unscaled", "not unscaled", "decoder", _ANY, field="V01"),
    _stage("decoder_frames_reversed", "latent frames reversed", "decoder", _BACK),
    _stage("decoder_cache_dropped", "pieces decoded without the past", "decoder", (_LONG,),
           block="vae.decoder.conv_in"),
    _stage("decoder_spatial_norm_swapped", "scale and shift of a spatial norm exchanged", "decoder",
           _BACK, block="vae.decoder.mid_block.resnets.1.norm1"),
    _stage("decoder_bias_lost", "bias of the last convolution not loaded", "decoder", _ANY,
           block="vae.decoder.conv_out"),
    _stage("state_decoder_cache_kept", "decoding goes on from the last video", "decoder", _BACK,
           field="V07", also=("loop",), second="same"),
    _stage("state_text_cached", "the first prompt's embedding for every prompt", "text", _OWN,
           also=("loop",), second="other_prompt"),
)  # fmt: skip
