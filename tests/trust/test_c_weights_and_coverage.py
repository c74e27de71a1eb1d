"""Kind C and coverage: what was not compared, or differs and is not explained, is no pass."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.stages.sketch import sketch_array
from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.judge.coverage import not_compared, of_checks, of_pipelines, of_runs
from harness.judge.decide import decide
from harness.judge.exact import compare_pipelines
from harness.judge.tables import said_of_tables
from harness.records import (
    EQUIVALENT,
    Coverage,
    Evidence,
    Finding,
    PipelineRecord,
    SeedDistances,
    TableRecord,
)
from harness.report.text import coverage_sentence
from harness.verdict import session
from harness.workers.connect import in_process

AGREES = Evidence(stage="collapse", check="collapse.x", outcome="agrees", detail="d")
WEIGHTS = Finding(kind="weights", name="transformer.a", detail="1 of 9 weight tensors differ")


def _distance(equal: bool) -> SeedDistances:
    return SeedDistances(
        seed=0, latents_rel_l2=0.0 if equal else 1e-7, per_step_rel_l2=[0.0], first_step=None,
        frames_equal=equal, latents_equal=equal,
    )  # fmt: skip


def _pipeline(**changes: Any) -> PipelineRecord:
    whole: dict[str, Any] = {
        "weights": {"text_encoder.a": "1", "transformer.a": "2", "vae.a": "3"},
        "dtypes": {"text_encoder": "float32", "transformer": "float32", "vae": "float32"},
        "configs": {"vae.scaling_factor": 0.7},
        "policies": {},
    }
    return PipelineRecord(**{**whole, **changes})


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("evidence", [[AGREES], []])
def test_weights_that_nothing_explains_are_said_first(equal: bool, evidence: Any) -> None:
    other = Finding(kind="config", name="vae.x", detail="vae.x is 1; the reference has 2")
    verdict, reasons = decide([], [_distance(equal)], [other, WEIGHTS], evidence, None, probed=True)
    assert verdict == "inconclusive"
    assert "weight tensors differ" in reasons[0]


@pytest.mark.parametrize("kind", ["config", "dtype", "schedule", "noise", "text", "policy"])
def test_a_difference_that_nothing_explains_passes_only_with_equal_bits(kind: str) -> None:
    finding = Finding(kind=kind, name="x", detail="x differs")
    verdict, reasons = decide([], [_distance(False)], [finding], [AGREES], None, probed=True)
    assert verdict == "inconclusive" and "x differs" in reasons[0]
    known = finding.model_copy(update={"known": "declared:x"})
    assert decide([], [_distance(True)], [known], [AGREES], None, probed=True)[0] == "bit_exact"


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("kind", ["components", "weights", "arguments", "checks", "frames", "new"])
def test_nothing_passes_with_something_missing(equal: bool, kind: str) -> None:
    short = Coverage(kind=kind, compared=2, total=3, missing=["transformer_2 (why)"])
    verdict, reasons = decide(
        [], [_distance(equal)], [], [AGREES], None, probed=True, coverage=[short]
    )
    assert verdict not in EQUIVALENT
    assert f"1 of 3 {kind} were not compared" in reasons[0] and "transformer_2" in reasons[0]
    bug = AGREES.model_copy(update={"outcome": "differs"})
    assert decide([], [_distance(equal)], [], [bug], None, True, [short])[0] == "bug"


def _with_table(
    values: Any, dtype: str = "float32", shape: tuple[int, ...] = (8, 64)
) -> PipelineRecord:
    """A pipeline whose only computed tensor has these `values`."""
    sketch = sketch_array(np.asarray(values, np.float32)).tolist()
    digest = sha256(np.asarray(values, np.float32).tobytes()).hexdigest()
    return _pipeline(
        weights={**_pipeline().weights, "transformer.table": digest},
        tables={"transformer.table": TableRecord(dtype=dtype, shape=list(shape), sketch=sketch)},
    )


def _findings(a: PipelineRecord, b: PipelineRecord) -> list[str]:
    return [f.name for f in compare_pipelines(a, b) if f.kind == "weights"]


def test_a_table_that_is_computed_in_another_order_is_the_same_table() -> None:
    angles = np.linspace(0, 30, 512)
    right, other = np.sin(angles), np.sin(angles * (1 + 2.0**-50))
    other = np.nextafter(
        other.astype(np.float32), np.float32(2), where=angles > 25, out=other.astype(np.float32)
    )
    a, b = _with_table(right), _with_table(other)
    assert a.weights != b.weights and _findings(a, b) == []
    (said,) = said_of_tables(a, b)
    assert (
        said.outcome == "agrees" and said.value is not None and 0 < said.value < (said.limit or 0)
    )
    assert said_of_tables(a, a) == []


@pytest.mark.parametrize(
    "damage", ["one value", "all a little", "shape", "dtype", "not finite", "loaded"]
)
def test_a_table_that_differs_by_more_is_a_finding(damage: str) -> None:
    right = np.sin(np.linspace(0, 30, 512))
    other = right.copy()
    given: dict[str, Any] = {}
    if damage == "one value":
        other[77] += 1e-4
    elif damage == "all a little":
        other *= 1 + 4e-7
    elif damage == "not finite":
        other[3] = np.nan
    else:
        other[5] = np.nextafter(np.float32(other[5]), np.float32(2))
        given = {"shape": {"shape": (512,)}, "dtype": {"dtype": "bfloat16"}}.get(damage, {})
    a, b = _with_table(right), _with_table(other, **given)
    if damage == "loaded":
        b = b.model_copy(update={"tables": {}})
    assert _findings(a, b) == ["transformer.table"] and said_of_tables(a, b) == []


def test_a_component_that_nobody_listed_is_counted() -> None:
    more = {**_pipeline().weights, "transformer_2.a": "4"}
    both = _pipeline(weights=more)
    assert not_compared(of_pipelines(both, both)) == []
    for sides in ((_pipeline(), both), (both, _pipeline())):
        said = not_compared(of_pipelines(*sides))
        assert len(said) == 2 and all("transformer_2" in sentence for sentence in said)


def test_a_component_without_a_stated_weight_is_not_compared() -> None:
    silent = _pipeline(dtypes={**_pipeline().dtypes, "image_encoder": "float32"})
    (said,) = not_compared(of_pipelines(silent, silent))
    assert said.startswith("1 of 4 components") and "image_encoder" in said


def test_frames_and_unscored_checks_are_counted() -> None:
    (said,) = not_compared(of_runs({0: (9, 9), 1: (8, 9)}))
    assert said.startswith("1 of 18 frames") and "seed 1" in said
    open_ = AGREES.model_copy(update={"outcome": "unscored", "detail": "no kernel"})
    noted = AGREES.model_copy(update={"outcome": "noted"})
    (row,) = of_checks([AGREES, open_, noted])
    assert (row.compared, row.total) == (1, 2) and "no kernel" in row.missing[0]


def test_what_was_counted_is_one_sentence() -> None:
    rows = [
        Coverage(kind="weights", compared=422, total=422),
        Coverage(kind="arguments", compared=13, total=14, missing=["mask (\x1b[31m)"]),
    ]
    said = coverage_sentence(rows)
    assert said.startswith("Compared: 422 of 422 weights, 13 of 14 arguments.")
    assert "Not compared: mask" in said and "\x1b" not in said


class _Silent:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


@pytest.mark.slow
def test_keys_that_a_norm_takes_back_are_no_pass(tmp_path: Path) -> None:
    """The function agrees; the weights differ, and nothing explains it."""
    settings = [
        "case=[micro_5b_quick]", "candidate=[]", "+backend@candidates.x=diffusers",
        "candidates.x.patch=keys_too_large", "judge.probe_seeds=[0,1]",
        "judge.calibration_seeds=[1000001]", "reference.threads=1", "metrics=[psnr]",
        f"store={tmp_path}/store", f"results={tmp_path}/results",
    ]  # fmt: skip
    config = build(compose_tree(settings, conf_folders(None)))
    plugin = ("tests.trust.option_faults",)
    _, result = session.run(config, plugin, (), _Silent(), until="probe", connect=in_process)
    assert result is not None
    (pair,) = result.pairs
    assert all(e.outcome != "differs" for e in pair.evidence), "the norm takes it back"
    assert pair.verdict == "inconclusive"
    assert "transformer_blocks.2.attn1.to_k" in pair.reasons[0]
    assert {row.kind for row in pair.coverage} >= {"components", "weights", "arguments", "checks"}
