"""The adversary's faults: invented against the finished detector, by its opponent.

None is a variation of another row. Many show only under a condition that most comparisons never meet,
or sit where the detector has been seen to look away. They are judged like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.records import Component
from tests.selftest.row import Fault, SecondRender
from tests.selftest.setting import (
    FIVE,
    FIVE_BF16,
    FIVE_LONG,
    FIVE_OFFLOAD,
    IMAGE,
    LATER,
    LATER_BF16,
    LATER_IMAGE,
    TWO,
    TWO_BF16,
    TWO_LONG,
    TWO_OFFLOAD,
    Setting,
)

_BLOCKS = "transformer.transformer_blocks"
_ANY = (TWO, FIVE)
_BACK = (FIVE, TWO)
_THREE = ("seeds=[0,1,2]",)


def _case(setting: Setting, *case: str) -> Setting:
    return replace(setting, case=(*setting.case, *case))


_WIDE = _case(FIVE, "width=96")
_CAPITALS = _case(TWO, "prompt='A Red circle moving left on a White background'")
_ACCENTS = _case(FIVE, "prompt='a red circle moving left, à gauche, on a white background'")
_LENGTHY = _case(
    TWO,
    "prompt='a red circle moving left on a white background and a blue square moving right on a"
    " black background and a green triangle moving up on a white background'",
)
_LONGER_NEGATIVE = _case(
    FIVE,
    "prompt='a red circle'", "negative_prompt='a blue square moving right on a black background'",
)  # fmt: skip
_BRACKETS = _case(TWO, "prompt='a (red) circle moving left on a white background'")
_TWELVE_STEPS = (_case(TWO, "steps=12"), _case(FIVE, "steps=12"))


def _row(
    file: str,
    name: str,
    summary: str,
    component: Component,
    settings: Sequence[Setting],
    block: str | None = None,
    key: str | None = None,
    also: tuple[Component, ...] = (),
    second: SecondRender | None = None,
    further: tuple[str, ...] = (),
) -> Fault:
    return Fault(
        f"unseen_{name}", "unseen", summary, component, tuple(settings),
        f"tests.selftest.faults.unseen_{file}", block=block, config_key=key, also=also,
        second_render=second, further=further,
    )  # fmt: skip


_INPUTS = (
    _row("inputs", "text_lowercased", "prompts in lower case", "text", (_CAPITALS,)),
    _row("inputs", "text_ascii_only", "letters that are not ASCII dropped", "text", (_ACCENTS,)),
    _row("inputs", "text_long_prompt_loses_end", "a prompt that is cut loses its end token", "text",
         (_LENGTHY,)),
    _row("inputs", "text_negative_cut_to_prompt", "negative prompt cut to the prompt's words",
         "text", (_LONGER_NEGATIVE,), also=("loop", "guidance")),
    _row("inputs", "text_brackets_weighted", "words in brackets weighted", "text", (_BRACKETS,)),
    _row("inputs", "text_attention_scaled", "T5's logits divided by sqrt(d)", "text", (LATER, TWO)),
    _row("inputs", "text_gate_swapped", "T5's two gate inputs exchanged", "text", (FIVE_BF16, TWO)),
    _row("inputs", "noise_seed_32_bits", "seeds cut to 32 bits", "noise", _BACK,
         further=("seeds=[4294967301]",)),
    _row("inputs", "noise_initial_again", "the solver's first draw is the initial latents'", "noise",
         (FIVE, LATER), also=("solver",)),
    _row("inputs", "noise_repeats_after_four_frames", "noise repeats from the fifth latent on",
         "noise", (TWO_LONG, FIVE_LONG)),
    _row("inputs", "noise_low_frequencies_shared", "all frames' noise has one mean", "noise",
         (TWO_BF16, TWO)),
    _row("inputs", "noise_of_picture_foreign", "the picture's posterior with foreign noise",
         "image_encoder", (IMAGE, LATER_IMAGE), also=("noise",)),
    _row("inputs", "image_linear_light", "picture in linear light", "image_encoder",
         (LATER_IMAGE, IMAGE)),
    _row("inputs", "image_resized_twice", "picture through half its size", "image_encoder",
         (IMAGE, LATER_IMAGE)),
    _row("inputs", "image_one_pixel_off", "picture one pixel off", "image_encoder",
         (LATER_IMAGE, IMAGE)),
    _row("inputs", "image_lost_late", "no picture in the second half", "transformer",
         (IMAGE, LATER_IMAGE), also=("image_encoder", "loop")),
)  # fmt: skip

_STEPS = (
    _row("steps", "solver_target_from_table", "steps go to the table's next timestep", "solver",
         _TWELVE_STEPS, also=("schedule", "loop")),
    _row("steps", "solver_remembers_result", "DPM extrapolates from the last result", "solver",
         (FIVE, LATER)),
    _row("steps", "solver_remembers_bf16", "DPM's memory in bfloat16", "solver", (LATER, FIVE)),
    _row("steps", "solver_decimal_logarithms", "DPM's log-SNR to base 10", "solver", (FIVE, LATER)),
    _row("steps", "solver_levels_in_run_dtype", "levels in the latents' dtype", "solver",
         (TWO_BF16, FIVE_BF16), also=("schedule",)),
    _row("steps", "solver_ddim_stochastic", "DDIM adds noise of its own", "solver", (TWO,),
         also=("noise",)),
    _row("steps", "schedule_last_level_not_zero", "noisiest level 2^-24, not 0", "schedule", _ANY,
         also=("solver",)),
    _row("steps", "guidance_rescaled", "guidance rescale 0.7", "guidance", (LATER, TWO)),
    _row("steps", "guidance_ramp_over_frames", "scale grows over the frames", "guidance", _BACK),
    _row("steps", "guidance_projected", "unconditional branch fitted first", "guidance",
         (TWO_BF16, TWO, FIVE)),
    _row("steps", "guidance_in_run_dtype", "branches combined in their own dtype", "guidance",
         (TWO_BF16, FIVE_BF16)),
    _row("steps", "guidance_branch_timestep", "unconditional branch told t - 1", "transformer",
         (FIVE, TWO), also=("guidance", "loop")),
    _row("steps", "loop_input_scaled", "transformer's input scaled by 0.995", "solver", (TWO, LATER),
         also=("transformer", "loop", "schedule")),
    _row("steps", "loop_step_from_cache", "step 3 repeats the output of step 2", "loop", _ANY,
         also=("transformer",)),
)  # fmt: skip

_MODEL = (
    _row("model", "attention_slice_forgotten", "last head of the conditional branch empty",
         "transformer", (FIVE_BF16, FIVE, TWO), f"{_BLOCKS}.0.attn1"),
    _row("model", "attention_window", "frames see their neighbours only", "transformer", _ANY,
         f"{_BLOCKS}.0.attn1"),
    _row("model", "attention_padded_tokens", "unmasked tokens of padding", "transformer",
         (LATER_BF16, FIVE), f"{_BLOCKS}.0.attn1"),
    _row("model", "attention_norm_after_rotation", "query and key normalised after rotation",
         "transformer", (LATER, FIVE), f"{_BLOCKS}.0.attn1"),
    _row("model", "attention_dropout", "dropout in block 2", "transformer", _ANY,
         f"{_BLOCKS}.2.attn1"),
    _row("model", "attention_softmax_in_run_dtype", "softmax in the run's dtype", "transformer",
         (FIVE_BF16, TWO_BF16), f"{_BLOCKS}.0.attn1"),
    _row("model", "norm_gamma_beta", "weight and bias of a norm exchanged", "transformer",
         (TWO, LATER_IMAGE), f"{_BLOCKS}.2.norm1"),
    _row("model", "norm_in_run_dtype", "norms' statistics in the run's dtype", "transformer",
         (TWO_BF16, FIVE_BF16), f"{_BLOCKS}.0.norm1"),
    _row("model", "time_in_run_dtype", "timestep in the run's dtype", "transformer",
         (FIVE_BF16, TWO_BF16), "transformer.time_proj"),
    _row("model", "positions_added_twice", "position table added twice", "transformer", (TWO,),
         "transformer.patch_embed"),
    _row("model", "rope_crop_off_by_one", "positions one column late at another size",
         "loop", (_WIDE,), key="image_rotary_emb[0]"),
    _row("model", "feed_forward_chunks", "the last tokens get no feed-forward", "transformer",
         (TWO_BF16, TWO, FIVE), f"{_BLOCKS}.0.ff"),
    _row("model", "frames_of_patch_interleaved", "1.5's frames unpacked in the wrong order",
         "transformer", (LATER, LATER_IMAGE)),
    _row("model", "block_residual_of_first_branch", "block 4's text is the unconditional branch's",
         "transformer", (IMAGE, TWO), f"{_BLOCKS}.4"),
)  # fmt: skip

_OUTPUT = (
    _row("output", "decoder_band_at_large_size", "a wrong band in wider videos", "decoder",
         (_WIDE,)),
    _row("output", "decoder_edges_replicated", "edges padded with copies", "decoder", _ANY,
         "vae.decoder.conv_out"),
    _row("output", "decoder_gamma_beta", "weight and bias of a group norm exchanged", "decoder",
         (FIVE_BF16, TWO), "vae.decoder.mid_block.resnets.0.norm1"),
    _row("output", "decoder_pieces_blended", "frames mixed where two pieces meet", "decoder",
         (FIVE_LONG, TWO_LONG)),
    _row("output", "decoder_odd_latent_last", "the odd latent goes with the last piece", "decoder",
         (TWO_LONG, FIVE_LONG)),
    _row("output", "decoder_shift_of_other_vae", "latents shifted", "decoder", (LATER, IMAGE)),
    _row("output", "decoder_levels_wrap", "values beyond white start at black again", "decoder",
         _BACK, also=("frames",)),
    _row("output", "frames_matrix_mixed", "BT.601 written, BT.709 read", "frames", (TWO, IMAGE)),
    _row("output", "frames_chroma_halved", "colour at half the resolution", "frames", (TWO, FIVE)),
    _row("output", "frames_half_pixel", "half a pixel to the left", "frames", (TWO_BF16, FIVE)),
    _row("output", "frames_dithered", "dithered by half a grey level", "frames", _ANY),
    _row("output", "frames_pair_exchanged", "two frames exchanged", "frames", (LATER_BF16, TWO)),
    _row("output", "frames_watermark", "one grey level in one corner", "frames", (TWO_BF16, TWO, FIVE)),
    _row("output", "frames_last_row_copied", "bottom row copied", "frames", (TWO_BF16, FIVE)),
    _row("output", "frames_colours_matched", "mean colours as in the first frame", "frames",
         (LATER_IMAGE, TWO)),
    _row("output", "frames_sharpened", "sharpened a little", "frames", (TWO_BF16, FIVE)),
)  # fmt: skip

_RUNS = (
    _row("runs", "state_seed_kept", "later videos have the first one's seed", "noise",
         (TWO, FIVE_BF16), also=("loop", "solver"), second="other_seed"),
    _row("runs", "state_middle_video", "the second of three videos 2 % darker", "frames",
         (FIVE, TWO_BF16), also=("loop",), further=_THREE),
    _row("runs", "state_middle_video_noise", "the second of three starts 1 % too small", "noise",
         (TWO, FIVE), also=("loop",), further=_THREE),
    _row("runs", "state_text_cached_by_length", "embeddings kept by prompt length", "text",
         (FIVE, TWO), second="other_prompt"),
    _row("runs", "state_guidance_kept", "the last scale kept for the next video", "guidance",
         (FIVE,), also=("loop",), second="same"),
    _row("runs", "offload_output_race", "output projection late in every fifth call", "transformer",
         (FIVE_OFFLOAD, TWO_OFFLOAD), also=("loop",)),
    _row("runs", "offload_buffer_stale", "position table moved after a video", "transformer",
         (_case(TWO_OFFLOAD, "frames=17"),), also=("loop",), second="same"),
)  # fmt: skip

ROWS = (*_INPUTS, *_STEPS, *_MODEL, *_OUTPUT, *_RUNS)
