"""Faults in weights: conversion, loading, broken files."""

from __future__ import annotations

from tests.selftest.row import Fault
from tests.selftest.setting import FIVE, FIVE_BF16, TWO, TWO_BF16, Setting

_BLOCKS = "transformer.transformer_blocks"
_BOTH = (TWO, FIVE)
_BOTH_BACKWARDS = (FIVE, TWO)


def _transformer(
    name: str, summary: str, block: str, settings: tuple[Setting, ...], field: str | None = None
) -> Fault:
    return Fault(
        f"weights_{name}", "weights", summary, "transformer", settings, "tests.selftest.faults.weights",
        block=block, field=field,
    )  # fmt: skip


ROWS = (
    _transformer("query_key_swapped", "query and key exchanged in every block",
                 f"{_BLOCKS}.0.attn1", _BOTH, "W01"),
    _transformer("key_value_swapped", "key and value exchanged in every block",
                 f"{_BLOCKS}.0.attn1", _BOTH_BACKWARDS, "W01"),
    _transformer("query_key_swapped_in_block_4", "query and key exchanged in one block",
                 f"{_BLOCKS}.4.attn1", (FIVE_BF16, TWO, FIVE)),
    _transformer("modulation_regrouped", "SAT's twelve modulation vectors cut in the middle",
                 f"{_BLOCKS}.0.norm1", _BOTH, "W02"),
    _transformer("modulation_streams_swapped", "modulations of text and video exchanged",
                 f"{_BLOCKS}.0.norm1", _BOTH_BACKWARDS, "W11"),
    _transformer("foreign_block", "block 2 of another checkpoint", f"{_BLOCKS}.2", _BOTH, "W09"),
    _transformer("blocks_exchanged", "blocks 2 and 3 exchanged", f"{_BLOCKS}.2", _BOTH_BACKWARDS),
    _transformer("patch_transposed", "rows and columns of a patch exchanged on the way in",
                 "transformer.patch_embed", _BOTH),
    _transformer("unpatch_transposed", "rows and columns of a patch exchanged on the way out",
                 "transformer.proj_out", _BOTH_BACKWARDS, "X14"),
    _transformer("norm_out_halves_swapped", "shift and scale of the last norm exchanged",
                 "transformer.norm_out", _BOTH),
    _transformer("value_bias_lost", "one bias not loaded: block 3, value",
                 f"{_BLOCKS}.3.attn1", (TWO_BF16, TWO, FIVE)),
    _transformer("output_bias_lost", "one bias not loaded: block 1, attention output",
                 f"{_BLOCKS}.1.attn1", (FIVE, TWO)),
    _transformer("time_bias_lost", "one bias not loaded: timestep embedding",
                 "transformer.time_embedding", _BOTH),
    _transformer("text_projection_bias_lost", "one bias not loaded: text projection",
                 "transformer.patch_embed", _BOTH_BACKWARDS),
    _transformer("head_lost", "one head of block 2 contributes nothing",
                 f"{_BLOCKS}.2.attn1", (TWO_BF16, TWO, FIVE)),
    _transformer("row_lost", "one row of block 3's feed-forward is zero",
                 f"{_BLOCKS}.3.ff", (FIVE, TWO, FIVE_BF16)),
    _transformer("scaled", "block 5's feed-forward 2 % too large",
                 f"{_BLOCKS}.5.ff", (TWO, FIVE, TWO_BF16)),
    _transformer("query_key_norms_swapped", "query and key norms exchanged in every block",
                 f"{_BLOCKS}.0.attn1", _BOTH),
    _transformer("query_norm_not_loaded", "block 0's query norm has its initial values",
                 f"{_BLOCKS}.0.attn1", (FIVE_BF16, TWO, FIVE)),
    _transformer("norm_not_loaded", "the norm before the output has its initial values",
                 "transformer.norm_final", _BOTH),
    _transformer("fuse_drift", "an update added and taken off again in bfloat16",
                 f"{_BLOCKS}.0.attn1", (TWO, FIVE), "L11"),
    Fault("weights_relative_positions_lost", "weights", "T5's relative position bias not loaded",
          "text", (TWO, FIVE), "tests.selftest.faults.weights",
          block="text_encoder.encoder.block.0.layer.0.SelfAttention"),
    Fault("weights_pad_embedding_zero", "weights", "T5's padding embedding is zero",
          "text", (FIVE, TWO), "tests.selftest.faults.weights", block="text_encoder.shared"),
    Fault("weights_decoder_block_not_loaded", "weights", "one decoder block has initial weights",
          "decoder", (TWO, FIVE), "tests.selftest.faults.weights",
          block="vae.decoder.up_blocks.1.resnets.0", field="W09"),
    Fault("weights_decoder_bias_lost", "weights", "bias of the decoder's last convolution not loaded",
          "decoder", (FIVE, TWO), "tests.selftest.faults.weights", block="vae.decoder.conv_out"),
    Fault("weights_decoder_kernel_reversed", "weights", "one causal kernel reversed in time",
          "decoder", (TWO, FIVE), "tests.selftest.faults.weights",
          block="vae.decoder.mid_block.resnets.0"),
    Fault("weights_decoder_channels_reversed", "weights", "a decoder that gives BGR",
          "decoder", (FIVE, TWO), "tests.selftest.faults.weights", block="vae.decoder.conv_out",
          field="I09"),
)  # fmt: skip
