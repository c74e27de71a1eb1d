"""Goldens: accepted results kept beside a test-suite, as small JSON files that can be reviewed.

    <folder>/<name>/<key>.json     one file for each environment that the result was accepted in

The key hashes hardware, dtypes and versions. A result is only ever compared with the golden of its own
environment; where there is none, that is an outcome of its own and never a silent comparison.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from pydantic import ValidationError

from backends.environment import lasting
from harness.errors import ParityError, StoreError
from harness.records import Record, RenderRecord
from harness.store import Store, content_key

Outcome = Literal["matches", "differs", "environment_mismatch", "missing"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,150}")
_LISTED = 6


class GoldenError(ParityError):
    """A golden cannot be accepted here."""


class GoldenRender(Record):
    """Digests of one seed's render: latents after every step, final latents, quantised frames."""

    steps: list[str]
    latents: str
    frames: str


class Golden(Record):
    """An accepted result. `environment` and `dtypes` decide which golden a result belongs to.

    `provenance` says how it came about: when, by which command, from which commit.
    """

    schema_version: int = 1
    name: str
    environment: dict[str, str]
    dtypes: dict[str, str]
    case: dict[str, Any]
    backend: str
    seeds: dict[int, GoldenRender]
    provenance: dict[str, str]

    @property
    def key(self) -> str:
        """Hash of what decides the bits besides the code under test."""
        return content_key({"environment": self.environment, "dtypes": self.dtypes})[:16]


class Check(Record):
    """How a result compares with what was accepted. `detail` is for a person, with what to do next."""

    outcome: Outcome
    detail: str


def read_golden(
    name: str, store: Store, renders: Sequence[RenderRecord], provenance: Mapping[str, str]
) -> Golden:
    """A result in the form in which it is accepted. Raises `GoldenError` for an unfinished render."""
    if not _NAME.fullmatch(name):
        raise GoldenError(
            f"golden {name!r}: a name may hold letters, digits, '.', '_' and '-' and becomes a folder"
        )
    for record in renders:
        if record.status != "ok" or record.frames is None or record.latents_digest is None:
            raise GoldenError(
                f"golden {name}: seed {record.seed} was not rendered ({record.status}:"
                f" {record.message}); only finished renders can be accepted or compared"
            )
    if not renders:
        raise GoldenError(f"golden {name}: there is no render; give at least one seed")
    first = renders[0]
    dtypes = store.pipeline(first.pipeline_key).dtypes if first.pipeline_key else {}
    return Golden(
        name=name,
        # what a golden is there to find is a change of code
        environment=lasting(first.environment),
        dtypes=dtypes,
        case={key: value for key, value in first.case.items() if key not in ("name", "model")},
        backend=str(first.variant["backend"]).partition("-")[0],
        seeds={
            r.seed: GoldenRender(
                steps=[step.latents_digest for step in r.steps],
                latents=str(r.latents_digest),
                frames=r.frames.sha256 if r.frames else "",
            )
            for r in renders
        },
        provenance={
            "accepted": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **provenance,
        },
    )


def accept(folder: Path, golden: Golden) -> Path:
    """Keep `golden`, replacing the one of its environment. Raises `GoldenError` where CI runs."""
    refuse_in_ci()
    path = _path(folder, golden)
    path.parent.mkdir(parents=True, exist_ok=True)
    # two test processes may accept one golden: each writes a whole file, the last rename stays
    with NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False) as partial:
        partial.write(golden.model_dump_json(indent=1) + "\n")
    Path(partial.name).replace(path)
    return path


def refuse_in_ci() -> None:
    """Raise `GoldenError` if CI=true: a gate must not accept what it is there to check."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        raise GoldenError(
            "goldens are not accepted where CI=true: run the same command on a machine of your own,"
            " look at the result, and commit the files that it writes"
        )


def check(folder: Path, result: Golden) -> Check:
    """Compare a result with the golden of its environment. Raises `StoreError` for a damaged one."""
    path = _path(folder, result)
    if not path.is_file():
        return _other_environments(folder, result)
    golden = _read(path)
    if golden.case != result.case:
        return _differs(f"the case is another one: {_changed(golden.case, result.case)}", path)
    if golden.seeds.keys() != result.seeds.keys():
        seeds = f"{sorted(golden.seeds)}, the result has {sorted(result.seeds)}"
        return _differs(f"the golden holds the seeds {seeds}", path)
    for seed, accepted in golden.seeds.items():
        if (where := _first_difference(accepted, result.seeds[seed])) is not None:
            return _differs(f"seed {seed} differs from what was accepted, {where}", path)
    accepted_at = golden.provenance.get("accepted", "at an unknown time")
    return Check(outcome="matches", detail=f"equal in every bit to what was accepted {accepted_at}")


def _path(folder: Path, golden: Golden) -> Path:
    return folder / golden.name / f"{golden.key}.json"


def _first_difference(accepted: GoldenRender, result: GoldenRender) -> str | None:
    if accepted == result:
        return None
    pairs = zip(accepted.steps, result.steps, strict=False)
    step = next((index for index, (a, b) in enumerate(pairs) if a != b), None)
    if step is not None:
        return f"first in the latents after step {step}"
    if accepted.latents != result.latents or len(accepted.steps) != len(result.steps):
        return "in the final latents"
    return "in the frames alone: the latents are equal, so it is the decoder or what follows it"


def _other_environments(folder: Path, result: Golden) -> Check:
    others = [_read(path) for path in sorted((folder / result.name).glob("*.json"))]
    if not others:
        return Check(
            outcome="missing",
            detail=f"nothing was accepted yet under {folder / result.name}; look at the result, and"
            " accept it with --parity-accept",
        )
    mine = result.environment | {f"dtype.{k}": v for k, v in result.dtypes.items()}
    gaps = [
        _changed(other.environment | {f"dtype.{k}": v for k, v in other.dtypes.items()}, mine)
        for other in others
    ]
    return Check(
        outcome="environment_mismatch",
        detail=f"{len(others)} accepted, none for this environment, so nothing was compared. The"
        f" nearest differs in {min(gaps, key=len)}. Run where it was accepted, or accept the result"
        " here too with --parity-accept",
    )


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    keys = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    shown = ", ".join(f"{key}: {a.get(key)!r} there, {b.get(key)!r} here" for key in keys[:_LISTED])
    return shown + (f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else "")


def _differs(what: str, path: Path) -> Check:
    return Check(
        outcome="differs",
        detail=f"{what}. If that is intended, accept it with --parity-accept; the golden is {path}",
    )


def _read(path: Path) -> Golden:
    try:
        return Golden.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StoreError(
            f"{path} is not a golden of this version ({type(error).__name__}); delete it and accept"
            " the result again"
        ) from error
