"""Which faults are judged on the models beyond micro-2b and micro-5b, so that every kind is.

A fault's first setting is the one that is measured. For the rows named here another one is put before
it; nothing else of the row changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tests.selftest.row import Fault
from tests.selftest.setting import (
    IMAGE,
    IMAGE_BF16,
    LATER,
    LATER_BF16,
    LATER_IMAGE,
    LATER_IMAGE_BF16,
    Setting,
)

_OFFLOAD = replace(LATER, backend="diffusers_offload")
_OFFLOAD_IMAGE = replace(LATER_IMAGE, backend="diffusers_offload")

_FIRST: tuple[tuple[Setting, tuple[str, ...]], ...] = (
    (LATER, (
        "weights_query_key_swapped", "attention_heads_rolled", "rope_shifted", "rope_off",
        "modulation_without_one", "activation_relu", "text_bf16", "schedule_leading",
        "guidance_from_conditional", "guidance_exponent", "solver_first_order",
        "noise_one_draw_shifted", "loop_latents_clamped", "decoder_unscaled", "decoder_bf16",
        "state_weights_drift",
    )),
    (LATER_BF16, (
        "weights_value_bias_lost", "attention_scale_in_block_3", "rope_missing_in_block_3",
        "time_off_by_one", "text_scaled", "schedule_one_timestep_off", "solver_noise_weak",
        "decoder_gain", "precision_block_fp8",
    )),
    (IMAGE, (
        "weights_blocks_exchanged", "attention_causal", "rope_theta", "gate_dropped",
        "block_skipped", "time_silu_missing", "text_cut", "schedule_linear_betas",
        "guidance_off_at_first_step", "solver_old_sample_stale", "loop_prompt_lost",
        "decoder_first_latent_lost", "precision_feed_forward_int8",
    )),
    (IMAGE_BF16, (
        "weights_head_lost", "attention_token_dropped", "rope_key_unrotated",
        "text_unconditional_word", "schedule_shift_slightly_off", "guidance_timestep_late",
        "noise_other_seed", "decoder_channel_bias",
    )),
    (LATER_IMAGE, (
        "weights_decoder_bias_lost", "attention_query_norm_missing", "rope_half_split",
        "rope_bf16_tables", "norm_epsilon", "text_padding_masked", "schedule_table_bf16",
        "solver_result_bf16", "noise_transposed", "loop_timestep_late", "decoder_norm_groups",
        "precision_norms_bf16",
    )),
    (LATER_IMAGE_BF16, (
        "text_gate_dropped", "residual_scaled", "guidance_one_percent", "weights_row_lost",
        "solver_result_scaled",
    )),
    (_OFFLOAD, ("offload_stale_text_norm", "offload_projection_from_other_layer")),
    (_OFFLOAD_IMAGE, ("offload_half_copied",)),
)  # fmt: skip


def spread(rows: Iterable[Fault]) -> tuple[Fault, ...]:
    """The rows, those named above with their setting on another model first. `ValueError` for a
    name that no row has."""
    first = {name: setting for setting, names in _FIRST for name in names}
    placed = tuple(
        replace(row, settings=(setting, *row.settings))
        if (setting := first.pop(row.id, None))
        else row
        for row in rows
    )
    if first:
        raise ValueError(f"no fault is called {', '.join(first)}")
    return placed
