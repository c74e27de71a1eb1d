"""Decisions are pure: evidence in, verdict out, and nothing uncomputed is ever a pass."""

import math

import pytest

from harness.judge.decide import decide, missing
from harness.judge.exact import compare_pipelines
from harness.judge.free import Divergence
from harness.judge.known import KNOWN
from harness.records import (
    Evidence,
    Finding,
    PairResult,
    PipelineRecord,
    RenderRecord,
    SeedDistances,
)
from harness.verdict.session import exit_code


def _distance(gap: float | None = 0.0, equal: bool = True) -> SeedDistances:
    return SeedDistances(
        seed=0, latents_rel_l2=gap, per_step_rel_l2=[0.0], first_step=None if equal else 0,
        frames_equal=equal, latents_equal=equal,
    )  # fmt: skip


def _render(status: str, message: str | None = None) -> RenderRecord:
    return RenderRecord(
        key="k", case={}, variant={}, seed=3, repeat=0, share=[], inputs_key=None,
        status=status, message=message, created="",
    )  # fmt: skip


def _pipeline(**changes) -> PipelineRecord:
    fields = {
        "weights": {"transformer.a": "1", "vae.b": "2"},
        "dtypes": {"transformer": "float32"},
        "configs": {"vae.scaling_factor": 0.7, "placement.kind": "full"},
        "policies": {"schedule": "x", "layer_norm_eps": 1e-5},
    }
    return PipelineRecord(**(fields | changes))


def _evidence(outcome: str = "agrees", **changes) -> Evidence:
    fields = {"stage": "collapse", "check": "collapse.text", "outcome": outcome, "detail": "d"}
    return Evidence(**(fields | changes))


def _decide(
    distances: list[SeedDistances],
    evidence: list[Evidence] | None = None,
    findings: list[Finding] | None = None,
    divergence: Divergence | None = None,
    failures: list[str] | None = None,
) -> tuple[str, list[str]]:
    return decide(
        failures or [], distances, findings or [], evidence or [], divergence,
        probed=evidence is not None,
    )  # fmt: skip


def _near(
    members: int, value: float = 1.5, local: float = 1.0, chi: float | None = 0.1
) -> Divergence:
    return Divergence([value], [[1.0] * members], local, chi)


@pytest.mark.parametrize(
    ("apart", "verdict"), [(None, "bit_exact"), (1e-6, "rounding"), (math.inf, "inconclusive")]
)
def test_shared_text_hides_no_bit_of_the_own(apart: float | None, verdict: str) -> None:
    """The renders took the reference's text, and say nothing of the candidate's."""
    found, reasons = decide(
        [], [_distance()], [], [_evidence()], _near(4, 0.0), probed=True, texts_apart=apart
    )
    assert found == verdict
    assert apart is None or "own text embedding differs by" in reasons[0]


def test_equal_bits_are_bit_exact() -> None:
    assert _decide([_distance(), _distance()])[0] == "bit_exact"


def test_equal_bits_hide_no_check_that_differs() -> None:
    assert _decide([_distance()], [_evidence("differs")])[0] == "bug"
    assert _decide([_distance()], [_evidence("unscored")])[0] == "inconclusive"


def test_equal_bits_with_an_unexplained_finding_are_not_bit_exact() -> None:
    found = Finding(kind="weights", name="vae.b", detail="differs")
    assert _decide([_distance()], findings=[found])[0] == "inconclusive"


@pytest.mark.parametrize("gap", [None, math.nan, 1e-7])
def test_a_difference_that_was_not_probed_is_inconclusive(gap: float | None) -> None:
    assert _decide([_distance(gap, False)])[0] == "inconclusive"


def test_equal_frames_with_unequal_latents_are_not_bit_exact() -> None:
    odd = _distance(0.0).model_copy(update={"latents_equal": False})
    assert _decide([odd])[0] == "inconclusive"


def test_hard_failures_win_over_equality() -> None:
    assert _decide([_distance()], failures=["reference, seed 0: black"])[0] == "broken"


def test_nothing_compared_is_inconclusive() -> None:
    assert _decide([])[0] == "inconclusive"


def test_agreeing_checks_and_a_distance_in_the_band_are_rounding() -> None:
    verdict, _ = _decide([_distance(1.5, False)], [_evidence()], divergence=_near(4))
    assert verdict == "rounding"


@pytest.mark.parametrize("members", [0, 3])
def test_too_few_members_are_never_a_pass(members: int) -> None:
    near = _near(members)
    assert _decide([_distance(1.5, False)], [_evidence()], divergence=near)[0] == "inconclusive"


def test_outside_the_band_the_error_budget_decides() -> None:
    far = _near(4, value=8.0, local=1.0)
    assert _decide([_distance(8.0, False)], [_evidence()], divergence=far)[0] == "inconclusive"
    amplified = _near(4, value=8.0, local=4.0)
    assert _decide([_distance(8.0, False)], [_evidence()], divergence=amplified)[0] == "chaotic"


@pytest.mark.parametrize("chi", [None, 0.6])
def test_chaos_is_no_pass_where_seeds_cannot_be_told_apart(chi: float | None) -> None:
    wild = _near(4, value=8.0, local=4.0, chi=chi)
    assert _decide([_distance(8.0, False)], [_evidence()], divergence=wild)[0] == "inconclusive"


def test_one_check_that_differs_is_a_bug_whatever_the_videos_say() -> None:
    evidence = [_evidence(), _evidence("differs")]
    assert _decide([_distance(1.5, False)], evidence, divergence=_near(4))[0] == "bug"


def test_a_policy_is_named_only_when_everything_else_agrees() -> None:
    known = Finding(kind="policy", name="schedule", detail="d", known="zero_snr_subset")
    apart = [_distance(1.5, False)]
    assert _decide(apart, [_evidence()], [known], _near(4))[0] == "policy"
    assert _decide(apart, [_evidence("differs")], [known], _near(4))[0] == "bug"


def test_a_policy_that_changes_nothing_does_not_make_the_verdict() -> None:
    idle = Finding(kind="policy", name="guidance_target", detail="d", known="guidance_target")
    apart = [_distance(1.5, False)]
    assert _decide(apart, [_evidence()], [idle], _near(4))[0] == "rounding"


def test_missing_renders_are_named_and_errors_come_first() -> None:
    renders = [("reference", _render("ok")), ("candidate", _render("unsupported", "no"))]
    assert missing(renders) == ("unsupported", ["candidate, seed 3: no"])
    assert missing([*renders, ("rerun", _render("error", "died"))]) == (
        "error",
        ["rerun, seed 3: died"],
    )
    assert missing(renders[:1]) is None


def test_identical_pipelines_have_no_findings() -> None:
    assert compare_pipelines(_pipeline(), _pipeline()) == []


def test_where_a_pipeline_runs_is_not_a_finding() -> None:
    moved = _pipeline(configs={"vae.scaling_factor": 0.7, "placement.kind": "model_offload"})
    assert compare_pipelines(_pipeline(), moved) == []


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        ({"weights": {"transformer.a": "1", "vae.b": "9"}}, "weights", "vae.b"),
        ({"weights": {"transformer.a": "1"}}, "weights", "vae.b"),
        (
            {"weights": {"transformer.a": "1", "vae.b": "2", "vae.c": "3"}},
            "weights",
            "vae.c",
        ),
        ({"dtypes": {"transformer": "bfloat16"}}, "dtype", "transformer"),
        (
            {"configs": {"vae.scaling_factor": 1.15, "placement.kind": "full"}},
            "config",
            "vae.scaling_factor",
        ),
        ({"policies": {"schedule": "x", "layer_norm_eps": 1e-6}}, "policy", "layer_norm_eps"),
    ],
)
def test_each_exact_difference_is_one_named_finding(change, kind: str, name: str) -> None:
    (finding,) = compare_pipelines(_pipeline(), _pipeline(**change))
    assert (finding.kind, finding.name) == (kind, name)


def test_known_differences_name_a_source_and_a_unique_id() -> None:
    assert len({row.id for row in KNOWN}) == len(KNOWN)
    assert all(row.source and row.says for row in KNOWN)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["bit_exact", "bit_exact"], 0),
        (["bit_exact", "unsupported"], 3),
        (["bug", "unsupported"], 1),
        (["unsupported"], 3),
        ([], 3),
        (["bit_exact", "inconclusive"], 3),
        (["inconclusive", "error"], 2),
        (["not_run"], 2),
        (["broken", "error"], 1),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    pairs = [
        PairResult(
            case="c",
            model="m",
            reference="a",
            candidate="b",
            verdict=v,
            reasons=[],
            findings=[],
            share=[],
            seeds=[],
            distances=[],
            floor=[],
            scores={},
            floor_scores={},
            renders={},
            cost_guided_calls=0,
        )
        for v in verdicts
    ]
    assert exit_code(pairs) == code
