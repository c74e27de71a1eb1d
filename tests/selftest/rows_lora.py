"""Faults in how a LoRA is put in force; the reference has the same LoRA, as it should be."""

from __future__ import annotations

from dataclasses import replace

from tests.selftest.row import Fault
from tests.selftest.setting import FIVE, FIVE_BF16

_LORA = "lora=micro-5b-magenta"
_LIVE = replace(FIVE, candidate=(_LORA,))
_LIVE_BF16 = replace(FIVE_BF16, candidate=(_LORA,))
_ATTENTION = "transformer.transformer_blocks.0.attn1"


def _lora(
    name: str,
    summary: str,
    block: str = _ATTENTION,
    field: str | None = None,
    key: str | None = "lora.scale",
) -> Fault:
    return Fault(
        f"lora_{name}", "lora", summary, "transformer", (_LIVE, _LIVE_BF16),
        "tests.selftest.faults.lora", block=block, config_key=key, field=field,
        further=(f"reference.{_LORA}",),
    )  # fmt: skip


ROWS = (
    _lora("scale_by_rank", "scaled by 1 / rank once more", field="L01"),
    _lora("alpha_ignored", "scaled by 1 instead of alpha / rank", field="L08"),
    _lora("not_applied", "loaded, and then switched off", field="L06"),
    _lora("transposed", "A and B exchanged", field="L04", key=None),
    _lora("value_stronger", "the values' LoRA twice too strong", field="L03"),
    _lora("layer_lost", "one layer's keys did not match",
          "transformer.transformer_blocks.3.attn1.to_out"),
    _lora("merged_twice", "in the weights and live as well", field="L11", key=None),
)  # fmt: skip
