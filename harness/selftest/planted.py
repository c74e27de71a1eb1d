"""A run whose candidates are its reference with one planted fault each, and what came of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from harness.config.config import CandidateSpec, RunConfig
from harness.errors import ConfigError
from harness.records import EQUIVALENT, NOT_EQUIVALENT, PairResult, Record, RenderRecord

PLUGIN = "backends.worker.planted"
CONTROL = "control"

FAULTS = {
    CONTROL: "no fault: the same stages around the same model",
    "denoiser_gain": "the transformer's output is 1 % too large",
    "branches_swapped": "the unconditional and the conditional branch are exchanged",
    "guidance_too_strong": "the guidance scale is 5 % too large",
    "timestep_late": "the transformer is told the timestep of the step before",
    "prompt_lost": "the text is that of an empty prompt",
    "noise_foreign": "the initial noise is that of another seed",
    "latents_bfloat16": "latents are rounded to bfloat16 between steps",
    "last_step_missing": "the last solver step is not taken",
    "decoder_scaled": "the decoder is fed with latents 5 % too large, as with another scaling factor",
    "frame_repeated": "a frame in the middle is the one before it",
    "frames_brighter": "after decoding every pixel is 3 grey levels brighter",
    "channels_swapped": "after decoding red and blue are exchanged",
}
"""What each stands for, the control first; patches are `selftest_NAME` of `PLUGIN`."""

Status = Literal["caught", "missed", "not applicable", "passed", "not passed"]


class Row(Record):
    """What the gate made of one fault. `place` is the first component that it named."""

    case: str
    fault: str
    stands_for: str
    verdict: str
    place: str
    status: Status
    why: str = ""


def with_faults(config: RunConfig, names: list[str]) -> RunConfig:
    """`config` with its reference under each of `names` as the candidates. Raises `ConfigError`."""
    reference = config.reference
    if reference.patch is not None:
        raise ConfigError(
            f"the reference has the patch {reference.patch!r}, and selftest plants patches of its own in"
            " a copy of it; leave out reference.patch"
        )
    candidates = tuple(
        CandidateSpec(
            name=name,
            backend=reference.backend,
            options=reference.options,
            patch=f"selftest_{name}",  # so that a plugin of the user's may have the plain name
            python=reference.python,
            threads=reference.threads,
            match=config.match,
        )
        for name in names
    )
    return config.model_copy(update={"candidates": candidates})


def rows(pairs: list[PairResult], find: Callable[[str], RenderRecord | None]) -> list[Row]:
    """A row a pair, in their order; `find` gives the record of a render key."""
    return [_row(pair, find) for pair in pairs]


def _row(pair: PairResult, find: Callable[[str], RenderRecord | None]) -> Row:
    status, why = _status(pair, find)
    found = next((f for f in pair.findings if f.kind == "component" and f.component), None)
    place = "" if found is None else " ".join(filter(None, (found.component, found.block)))
    return Row(
        case=pair.case, fault=pair.candidate, stands_for=FAULTS[pair.candidate],
        verdict=pair.verdict, place=place, status=status, why=why,
    )  # fmt: skip


def _status(pair: PairResult, find: Callable[[str], RenderRecord | None]) -> tuple[Status, str]:
    reason = pair.reasons[0] if pair.reasons else pair.summary
    if pair.candidate == CONTROL:
        passed = pair.verdict in EQUIVALENT
        return ("passed", "") if passed else ("not passed", reason)
    if pair.verdict == "unsupported":
        return "not applicable", reason
    if not _acts(pair, find):
        return (
            "not applicable",
            "latents and frames have the reference's bits",
        )
    return ("caught", "") if pair.verdict in NOT_EQUIVALENT else ("missed", reason)


def _acts(pair: PairResult, find: Callable[[str], RenderRecord | None]) -> bool:
    """Whether any render differs from the reference's in a bit, read from the store and not from the
    verdict, which is what is under test; what was not rendered is taken to differ."""
    for seed in pair.seeds:
        sides = [
            find(pair.renders.get(side, {}).get(seed, "")) for side in ("reference", "candidate")
        ]
        made = [(r.frames, r.latents_digest) for r in sides if r is not None and r.status == "ok"]
        if len(made) < 2 or made[0] != made[1]:
            return True
    return not pair.seeds


def summary(found: list[Row]) -> str:
    """One sentence on what this gate would catch and what not."""
    by: dict[str, list[str]] = {}
    for row in found:
        by.setdefault(row.status, []).append(row.fault)
    caught, missed = by.get("caught", []), by.get("missed", [])
    parts = [f"On this model and machine this gate catches {len(caught)} of {len(caught) + len(missed)}"
             " planted faults that act there"]  # fmt: skip
    if missed:
        parts.append(f"it misses {', '.join(missed)}")
    if idle := by.get("not applicable"):
        parts.append(f"it was not tried on {', '.join(idle)}, which cannot act there")
    if "not passed" in by:
        parts.append("the control did not pass, so what was caught says little")
    return "; ".join(parts) + "."
