"""Faults in the code of the transformer: positions, attention, modulation, norms, time, steps."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import VerdictName
from tests.selftest.row import Fault
from tests.selftest.setting import (
    FIVE,
    FIVE_BF16,
    FIVE_LONG,
    TWO,
    TWO_BF16,
    TWO_LONG,
    Setting,
)

_ROOT = "transformer"


def _rows(
    file: str,
    kind: str,
    rows: tuple[tuple[str, str, str, tuple[Setting, ...], str | None], ...],
    expected: tuple[VerdictName, ...] = ("bug",),
) -> tuple[Fault, ...]:
    """Rows (id, summary, first wrong module, settings, field); a number is a block's."""
    return tuple(
        Fault(
            name, kind, summary, "transformer", settings, f"tests.selftest.faults.{file}",
            block=_module(block), field=field, expected=expected,
        )
        for name, summary, block, settings, field in rows
    )  # fmt: skip


def _told(
    place: str,
    kind: str,
    argument: str,
    rows: Sequence[tuple[str, str, tuple[Setting, ...], str | None]],
) -> tuple[Fault, ...]:
    """What the transformer is told wrongly is its caller's fault, and named as that `argument`."""
    return tuple(
        Fault(
            name, kind, summary, "loop", settings, f"tests.selftest.faults.{place}",
            config_key=argument, field=field,
        )
        for name, summary, settings, field in rows
    )  # fmt: skip


def _module(short: str) -> str:
    return f"{_ROOT}.transformer_blocks.{short}" if short[:1].isdigit() else f"{_ROOT}.{short}"


_ANY = (TWO, FIVE)
_BACK = (FIVE, TWO)

ROWS = (
    *_rows("attention", "attention", (
        ("attention_scale", "logits scaled for another head size", "0.attn1", _ANY, None),
        ("attention_scale_in_block_3", "one block's logits 5 % too large", "3.attn1",
         (TWO_BF16, TWO, FIVE), None),
        ("attention_softmax_bf16", "softmax in bfloat16 in a float32 run", "0.attn1", _BACK, None),
        ("attention_padding_masked", "half of the text keys masked", "0.attn1", _ANY, "X17"),
        ("attention_last_keys_dropped", "the last four keys dropped", "0.attn1", _BACK, "X17"),
        ("attention_causal", "causal flag left on", "0.attn1", _ANY, None),
        ("attention_causal_in_block_2", "causal flag left on in one block", "2.attn1",
         (FIVE_BF16, FIVE), None),
        ("attention_heads_not_merged", "heads reshaped without transpose", "0.attn1", _ANY, "X17"),
        ("attention_heads_rolled", "block 1's heads in another order", "1.attn1", _BACK, None),
        ("attention_branches_mixed", "conditional branch uses the other's keys", "3.attn1",
         _ANY, "X22"),
        ("attention_query_norm_missing", "block 2 without query norm", "2.attn1", _BACK, None),
        ("attention_norm_epsilon", "query and key norms with eps 1e-3", "0.attn1", _ANY, None),
        ("attention_norm_rms", "query and key norms without centring", "0.attn1", _BACK, None),
        ("attention_norm_over_all_heads", "query and key norms over all heads together",
         "0.attn1", _ANY, None),
        ("attention_soft_cap", "soft-capped logits", "0.attn1", _BACK, None),
        ("attention_int8", "query and key rounded to 8 bits", "0.attn1", (TWO, FIVE), None),
        ("attention_streams_split_wrongly", "block 1 splits text and video wrongly", "1.attn1",
         _BACK, None),
        ("attention_exponent_base", "block 0's softmax to base 2", "0.attn1",
         (TWO_BF16, TWO, FIVE), None),
        ("attention_token_dropped", "block 5's last row repeated", "5.attn1",
         (FIVE_BF16, FIVE), None),
    )),
    *_rows("attention", "attention", (
        ("attention_overflow", "block 4's logits overflow in half precision", "4.attn1",
         _ANY, "X18"),
    ), ("broken",)),
    *_told("positions", "positions", "image_rotary_emb[0]", (
        ("rope_base_size", "positions scaled for 480x720", (FIVE,), "X03"),
        ("rope_theta", "base wavelength 1000", (FIVE, FIVE_BF16), None),
        ("rope_double_time", "time positions twice as far apart", (FIVE,), "X04"),
        ("rope_shifted", "positions one token late", (FIVE_BF16, FIVE), "X08"),
        ("rope_axes_swapped", "rows and columns exchanged", (FIVE,), "X10"),
        ("rope_bf16_tables", "tables computed in bfloat16", (FIVE,), "X11"),
        ("rope_last_frame_late", "last latent frame placed on the one before", (FIVE, FIVE_LONG), None),
        ("rope_parts_swapped", "height's and width's channels exchanged", (FIVE,), None),
    )),
    *_told("positions", "positions", "image_rotary_emb[1]", (
        ("rope_sine_negated", "rotation in the other sense", (FIVE,), None),
    )),
    *_rows("positions", "positions", (
        ("rope_half_split", "channels paired half and half", "0.attn1", (FIVE,), "X06"),
        ("rope_key_unrotated", "only queries rotated", "0.attn1", (FIVE,), None),
        ("rope_value_rotated", "values rotated too", "0.attn1", (FIVE,), None),
        ("rope_missing_in_block_3", "block 3 does not rotate", "3.attn1", (FIVE_BF16, FIVE), None),
        ("table_missing", "no position table", "patch_embed", (TWO,), "W06"),
        ("table_interpolation", "table without spatial interpolation", "patch_embed", (TWO,), "W07"),
        ("table_time_interpolation", "table with time stretched twice", "patch_embed",
         (TWO, TWO_BF16), None),
        ("table_shifted", "table one token late", "patch_embed", (TWO_BF16, TWO), "X08"),
        ("table_axes_swapped", "table with rows and columns exchanged", "patch_embed", (TWO,), None),
        ("table_cosine_first", "cosines first in the time channels", "patch_embed",
         (TWO_LONG, TWO), None),
        ("table_frame_late", "second latent frame placed on the first", "patch_embed", (TWO,), None),
        ("table_bf16", "table rounded to bfloat16", "patch_embed", (TWO,), None),
    )),
    Fault("rope_off", "positions", "rotary embedding turned off", "transformer", (FIVE,),
          "tests.selftest.faults.positions", block=_module("0.attn1"),
          config_key="transformer.use_rotary_positional_embeddings", field="C11"),
    *_rows("blocks", "modulation", (
        ("modulation_shift_scale_swapped", "block 3 exchanges shift and scale", "3.norm1",
         _ANY, None),
        ("modulation_without_one", "block 2 scales by s, not 1 + s", "2.norm1", _BACK, None),
        ("modulation_before_norm", "block 4 modulates before the norm", "4.norm2", _ANY, None),
        ("norm_skipped", "block 1's feed-forward without norm", "1.norm2", _BACK, None),
        ("modulation_without_silu", "no activation before the modulations", "0.norm1", _ANY, None),
        ("gate_dropped", "block 2 without attention gate", "2.norm1", _BACK, None),
        ("text_gate_dropped", "block 1 without text gate", "1.norm1", (TWO_BF16, TWO, FIVE), None),
        ("gates_of_streams_swapped", "block 3's gates of text and video exchanged", "3.norm2",
         _BACK, None),
        ("norm_epsilon", "block norms with eps 1e-3", "0.norm1", (FIVE, TWO), None),
        ("final_norm_skipped", "no norm before the output", "norm_final", _ANY, None),
        ("final_norm_rms", "norm before the output without centring", "norm_final", _BACK, None),
    )),
    *_rows("blocks", "blocks", (
        ("residual_scaled", "block 1's video stream 2 % too small", "1", (FIVE_BF16, FIVE, TWO), None),
        ("text_stream_stale", "block 4 hands on its text unchanged", "4", _ANY, None),
        ("block_skipped", "the last block skipped", "5", _BACK, "X25"),
        ("block_twice", "block 2 run twice", "2", _ANY, None),
        ("block_cached", "block 3 repeated every other step", "3", _BACK, "B22"),
        ("activation_exact", "exact GELU", "0.ff", (TWO, FIVE), "X24"),
        ("activation_relu", "ReLU in block 5", "5.ff", _BACK, None),
        ("feed_forward_without_text", "block 0's feed-forward skips the text", "0.ff", _ANY, None),
        ("tokens_text_last", "text after the video", "patch_embed", _BACK, None),
    )),
    *_told("blocks", "time", "timestep", (
        ("time_off_by_one", "the transformer is told t - 1", (TWO_BF16, TWO, FIVE), "X21"),
        ("time_as_fraction", "the transformer is told t / 1000", _BACK, "X21"),
        ("time_bf16", "timestep rounded to bfloat16", _ANY, None),
    )),
    *_rows("blocks", "time", (
        ("time_sine_first", "sines before cosines", "time_proj", _ANY, None),
        ("time_frequency_shift", "frequencies divided by half - 1", "time_proj", _BACK, None),
        ("time_silu_missing", "no activation in the timestep embedding", "time_embedding",
         _BACK, None),
    )),
    *tuple(
        Fault(name, "one_step", summary, "transformer", settings, "tests.selftest.faults.blocks")
        for name, summary, settings in (
            ("first_step_only", "1 % too much velocity in the first step", _ANY),
            ("middle_step_only", "2 % too much velocity in step 3 of 8", _BACK),
            ("last_step_only", "2 % too much velocity in the last step", _ANY),
            ("velocity_clamped", "velocity clamped to [-2, 2]", _BACK),
        )
    ),
)  # fmt: skip
