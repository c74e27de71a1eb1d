"""Goldens: accepted results kept beside a test-suite, as small JSON files that can be reviewed.

    <folder>/<name>/<key>.json     one file for each environment that the result was accepted in

The key hashes hardware, dtypes and versions. A result is only ever compared with the golden of its own
environment; where there is none, that is an outcome of its own and never a silent comparison.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from pydantic import ValidationError

from backends.worker.environment import lasting
from harness.api.golden_picture import Mismatch, packed, tiles_of, unpacked
from harness.errors import ParityError, StoreError
from harness.metrics.readings import hard_failures, read_video
from harness.records import Record, RenderRecord
from harness.render.frames import Uint8Frames, frames_sha256, read_frames
from harness.store.store import Store, content_key

Outcome = Literal["matches", "differs", "environment_mismatch", "missing"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,150}")
_LISTED = 6


def name_of_test(nodeid: str) -> str:
    """The name of a test's golden: readable, and another one for every other test.

    `nodeid` is the test's id with its file, relative to the root folder.

    >>> name_of_test("tests/test_a.py::test_par[a/b]")
    'test_par_a_b_-aef0da112e'
    """
    function, bracket, parameters = nodeid.partition("[")
    own = function.rpartition("::")[2] + bracket + parameters
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", own)[:100]
    return f"{readable}-{hashlib.sha256(nodeid.encode()).hexdigest()[:10]}"


def former_name(name: str) -> str | None:
    """What earlier versions called the golden of a test; None for a name that is no test's."""
    return name[:-11] if re.fullmatch(r".+-[0-9a-f]{10}", name) else None


class GoldenError(ParityError):
    """A golden cannot be accepted here."""


class GoldenRender(Record):
    """Digests of one seed's render: latents after every step, final latents, quantised frames.

    `render` is its key in the store, `shape` (T, H, W), and `tiles` a coarse picture of the video
    (`harness.api.golden_picture`); empty in goldens of earlier versions. They decide nothing.
    """

    steps: list[str]
    latents: str
    frames: str
    render: str = ""
    shape: tuple[int, ...] = ()
    tiles: str = ""

    @property
    def bits(self) -> tuple[list[str], str, str]:
        """What must be equal."""
        return self.steps, self.latents, self.frames


class Golden(Record):
    """An accepted result. `environment` and `dtypes` decide which golden a result belongs to.

    `provenance` says how it came about: when, by which command, from which commit. `broken` says what
    makes its videos unusable; such a result is never accepted.
    """

    schema_version: int = 1
    name: str
    environment: dict[str, str]
    dtypes: dict[str, str]
    case: dict[str, Any]
    backend: str
    seeds: dict[int, GoldenRender]
    provenance: dict[str, str]
    broken: tuple[str, ...] = ()

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
    """A result in the form in which it is accepted. Raises `GoldenError` for an unfinished render.

    What makes a video unusable is found here, so that no way of accepting can miss it.
    """
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
    videos = [read_frames(store.render_folder(r.key) / "frames.mkv") for r in renders]
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
                render=r.key,
                shape=video.shape[:3],
                tiles=packed(tiles_of(video)),
            )
            for r, video in zip(renders, videos, strict=True)
        },
        broken=tuple(
            f"seed {r.seed}: {what}"
            for r, video in zip(renders, videos, strict=True)
            for what in _unusable(r, video)
        ),
        provenance={
            "accepted": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **provenance,
        },
    )


def accept(folder: Path, golden: Golden) -> Path:
    """Keep `golden`, replacing the one of its environment.

    Raises `GoldenError` where CI runs, and for a broken video.
    """
    refuse_in_ci()
    if golden.broken:
        raise GoldenError(
            f"golden {golden.name}: not accepted, because the video is broken:"
            f" {'; '.join(golden.broken)}. Mend the pipeline, and accept what it renders then"
        )
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


def check(
    folder: Path, result: Golden, store: Store | None = None, pictures: Path | None = None
) -> Check:
    """Compare a result with the golden of its environment. Raises `StoreError` for a damaged one.

    A difference is shown by size and place, and as a picture below `pictures`; `store` has the videos.
    """
    path = _path(folder, result)
    if not path.is_file():
        return _other_environments(folder, result)
    golden = _read(path)
    if result.broken:
        return _differs(f"the video is broken: {'; '.join(result.broken)}", path)
    if golden.case != result.case:
        return _differs(f"the case is another one: {_changed(golden.case, result.case)}", path)
    if golden.seeds.keys() != result.seeds.keys():
        seeds = f"{sorted(golden.seeds)}, the result has {sorted(result.seeds)}"
        return _differs(f"the golden holds the seeds {seeds}", path)
    for seed, accepted in golden.seeds.items():
        mine = result.seeds[seed]
        if (where := _first_difference(accepted, mine)) is not None:
            shown = _shown(
                accepted, mine, store, pictures and pictures / f"{result.name}-{seed}.png"
            )
            return _differs(f"seed {seed} differs from what was accepted, {where}{shown}", path)
    accepted_at = golden.provenance.get("accepted", "at an unknown time")
    return Check(outcome="matches", detail=f"equal in every bit to what was accepted {accepted_at}")


def _path(folder: Path, golden: Golden) -> Path:
    return folder / golden.name / f"{golden.key}.json"


def _first_difference(accepted: GoldenRender, result: GoldenRender) -> str | None:
    if accepted.bits == result.bits:
        return None
    pairs = zip(accepted.steps, result.steps, strict=False)
    step = next((index for index, (a, b) in enumerate(pairs) if a != b), None)
    if step is not None:
        return f"first in the latents after step {step}"
    if accepted.latents != result.latents or len(accepted.steps) != len(result.steps):
        return "in the final latents"
    return "in the frames alone: the latents are equal, so it is the decoder or what follows it"


def _shown(
    accepted: GoldenRender, result: GoldenRender, store: Store | None, picture: Path | None
) -> str:
    """Size, place and picture of a difference, as far as there is anything to show it with."""
    if not accepted.tiles or not result.tiles:
        return "; the golden is of an earlier version and holds no picture"
    if accepted.shape != result.shape:
        sizes = (" x ".join(map(str, shape)) for shape in (accepted.shape, result.shape))
        return "; accepted was a video of {} (frames, height, width), this is one of {}".format(
            *sizes
        )
    try:
        mismatch = Mismatch(unpacked(accepted.tiles), unpacked(result.tiles), exact=False)
    except ValueError:
        return "; the picture in the golden is damaged"
    if store is not None and store.find(accepted.render) and store.find(result.render):
        a, b = (
            read_frames(store.render_folder(r.render) / "frames.mkv") for r in (accepted, result)
        )
        if frames_sha256(a) == accepted.frames:
            mismatch = Mismatch(a, b, exact=True)
    said = f"; {mismatch.sentence()}"
    return said if picture is None else f"{said}; picture: {mismatch.write(picture)}"


def _unusable(record: RenderRecord, video: Uint8Frames) -> list[str]:
    """What makes a video no video, whatever was expected of it."""
    steps = [s.step for s in record.steps if not (s.velocity_finite and s.latents_finite)]
    found = [f"not finite from step {steps[0]} on"] if steps else []
    if record.frames is not None and record.frames.non_finite:
        found.append(f"{record.frames.non_finite} decoded values are not finite")
    return [*found, *hard_failures(read_video(video))]


def _other_environments(folder: Path, result: Golden) -> Check:
    others = [_read(path) for path in sorted((folder / result.name).glob("*.json"))]
    earlier = former_name(result.name)
    if not others and earlier and (former := folder / earlier).is_dir():
        return Check(
            outcome="missing",
            detail=f"{former} is the golden of an earlier version, whose name several tests could"
            " share, so nothing was compared. If this test alone uses it, rename that folder to"
            f" {result.name}; else look at the result, and accept it with --parity-accept",
        )
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
