"""Mixtures of two sides: what a backend refuses is no evidence, what crashes is an error."""

from typing import Any

import numpy as np
import pytest

from backends.base import Case, Variant
from harness.judge.measured import Answers
from harness.localize.hybrids import Hybrids, Side, differing
from harness.localize.search import culprits
from harness.probe.prober import Target
from harness.records import PipelineRecord
from harness.workers.client import RemoteError

CASE = Case(
    name="tiny", model="m", prompt="p", negative_prompt="", frames=9, height=32, width=32, steps=3,
    guidance_scale=6.0, dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip
PLAIN = {"lora": None, "lora_scale": 1.0, "tiling": False}
MIXED = {"lora": "style", "lora_scale": 0.5, "tiling": True}


class _Answering:
    """Answers as a pipeline would whose frames depend on its LoRA; a lone scale fails with `kind`."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def ask(self, target: Target, case: Case, shared: Any, questions: Any, given: Any) -> Answers:
        options = target.variant.options
        if options["lora"] is None and options["lora_scale"] != 1.0:
            message = "lora_scale=0.5 without a LoRA"
            raise RemoteError(
                {"message": message, "outcome": "error", "kind": self._kind, "trace": None}
            )
        names = [f"t.{k}.{part}" for k in range(3) for part in ("in", "velocity")]
        tensors = {name: np.ones(4, np.float32) for name in (*names, "t.clean")}
        strength = 0.0 if options["lora"] is None else options["lora_scale"]
        if questions[0].id != "t":
            tensors = {"d.0.frames": np.full(4, 1 + strength, np.float32)}
        record = PipelineRecord(weights={}, dtypes={}, configs={}, policies={})
        return Answers(record, tensors, {"own": {"schedule": {}}, "p": {"scales": {}}})


def _hybrids(kind: str) -> tuple[Hybrids, list[str]]:
    mine, other = (
        Side(CASE, Target(Variant(name, "diffusers", options), None, 1))
        for name, options in (("a", PLAIN), ("b", MIXED))
    )
    keys = differing(mine, other)
    return Hybrids(_Answering(kind), mine, keys, 0), list(keys)  # type: ignore[arg-type]


def test_a_refused_mixture_counts_as_agreeing_so_that_what_it_needs_is_found() -> None:
    hybrids, keys = _hybrids("InvalidRequest")
    assert culprits(keys, hybrids.differs) == ["options.lora"]
    assert hybrids.refused >= 1
    assert not hybrids.differs(frozenset({"options.lora_scale"}))


def test_a_crash_is_no_answer() -> None:
    hybrids, _ = _hybrids("RuntimeError")
    with pytest.raises(RemoteError, match="without a LoRA"):
        hybrids.differs(frozenset({"options.lora_scale"}))
