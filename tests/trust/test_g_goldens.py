"""Kind G: no broken video becomes a golden, no two tests share one, and a mismatch shows itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from harness.api.goldens import (
    Golden,
    GoldenError,
    accept,
    check,
    former_name,
    name_of_test,
    read_golden,
)
from harness.records import Frames, RenderRecord, Step
from harness.render.frames import Uint8Frames, frames_sha256, write_lossless
from harness.store.store import Store, content_key
from tests.report.synthetic_runs import clip


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def rendered(
    store: Store, video: Uint8Frames, digest: str = "d", **changes: object
) -> RenderRecord:
    """A finished render of `video`, all of whose latents have one digest."""
    count, height, width, _ = video.shape
    key = content_key({"video": frames_sha256(video), "digest": digest, **changes})
    finite = not changes.get("nan_latents", False)
    step = Step(step=0, timestep=9, guidance_scale=1.0, velocity_digest="v", latents_digest=digest,
                velocity_finite=finite, latents_finite=finite)  # fmt: skip
    record = RenderRecord(
        key=key, case={"name": "c", "model": "m", "frames": count},
        variant={"name": "v", "backend": "b"},
        seed=0, repeat=0, share=[], inputs_key=None, status="ok", latents_digest=digest, steps=[step],
        created="2026-01-01T00:00:00+00:00", environment={"torch": str(changes.get("torch", "2"))},
        frames=Frames(sha256=frames_sha256(video), float_digest="f",
                      non_finite=int(str(changes.get("non_finite", 0))), frames=count, height=height,
                      width=width),
    )  # fmt: skip
    with store.staged("renders", key) as folder:
        write_lossless(folder / "frames.mkv", video, 8)
        (folder / "record.json").write_text(record.model_dump_json())
    return record


def golden(store: Store, video: Uint8Frames, **changes: object) -> Golden:
    return read_golden("port", store, [rendered(store, video, **changes)], {})


@pytest.mark.parametrize(
    ("video", "changes", "reason"),
    [
        (np.zeros((5, 32, 32, 3), np.uint8), {}, "all 5 frames are black"),
        (np.full((5, 32, 32, 3), 200, np.uint8), {}, "all 5 frames are of one colour"),
        (np.repeat(clip(1), 5, axis=0), {}, "nothing moves in 5 frames"),
        (clip(), {"non_finite": 9}, "9 decoded values are not finite"),
        (clip(), {"nan_latents": True}, "not finite from step 0"),
    ],
)
def test_a_broken_video_is_refused_with_its_reason(
    tmp_path: Path, video: Uint8Frames, changes: dict[str, object], reason: str
) -> None:
    store = Store(tmp_path / "store")
    broken = golden(store, video, **changes)
    with pytest.raises(GoldenError, match=reason):
        accept(tmp_path / "goldens", broken)
    assert not (tmp_path / "goldens").exists()
    forced = accept(tmp_path / "goldens", broken.model_copy(update={"broken": ()}))
    assert forced.is_file()
    found = check(tmp_path / "goldens", broken)
    assert found.outcome == "differs", "one that an earlier version accepted"
    assert reason in found.detail


FILES = ("tests/a/test_x.py", "tests/b/test_x.py", "test_x.py")
TESTS = (
    "test_par[a/b]", "test_par[a b]", "test_par[a_b]", "test_par[A_B]", "test_par",
    "TestIt::test_par", "TestIt::test_par[x::y]", "test_par[é]", "test_par[]",
    "test_" + "x" * 300, "test_" + "x" * 301,
)  # fmt: skip


def test_no_two_tests_share_a_golden() -> None:
    ids = [f"{file}::{test}" for file, test in itertools.product(FILES, TESTS)]
    names = [name_of_test(nodeid) for nodeid in ids]
    assert len({name.lower() for name in names}) == len(ids), "also where case is not told apart"
    assert all(len(name) < 150 and "/" not in name for name in names)


def test_a_golden_under_a_former_name_is_not_taken_for_this_tests(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    result = golden(store, clip()).model_copy(update={"name": name_of_test("t.py::test_par[a/b]")})
    former = former_name(result.name)
    assert former == "test_par_a_b_"
    accept(tmp_path, result.model_copy(update={"name": former}))
    found = check(tmp_path, result)
    assert found.outcome == "missing"
    assert "earlier version" in found.detail
    assert f"rename that folder to {result.name}" in found.detail
    named = check(tmp_path, golden(store, clip()).model_copy(update={"name": "port"}))
    assert "nothing was accepted yet" in named.detail


def other(video: Uint8Frames) -> Uint8Frames:
    """The video with a mark in frame 3, in the second of eight rows and the sixth column."""
    changed = video.copy()
    changed[3, 8:16, 40:48] = 255 - changed[3, 8:16, 40:48]
    return changed


@pytest.mark.parametrize("accepted_is_here", [True, False])
def test_a_mismatch_has_size_place_and_picture(tmp_path: Path, accepted_is_here: bool) -> None:
    store, video = Store(tmp_path / "store"), clip()
    accept(tmp_path / "goldens", golden(store, video))
    store = store if accepted_is_here else Store(tmp_path / "another")
    found = check(
        tmp_path / "goldens", golden(store, other(video), digest="e"), store, tmp_path / "p"
    )
    assert found.outcome == "differs"
    for part in ("first in the latents after step 0", "of 255 grey levels", "PSNR", "worst in frame 3",
                 "in row 2 and column 6"):  # fmt: skip
        assert part in found.detail
    assert ("the accepted video is not here" in found.detail) is not accepted_is_here
    picture = Path(found.detail.split("picture: ")[1].split(". If")[0])
    assert imageio.imread(picture).shape[0] == 3 * (64 if accepted_is_here else 8 * 24)


def test_another_shape_another_environment_and_damage_are_told_apart(tmp_path: Path) -> None:
    store, goldens = Store(tmp_path / "store"), tmp_path / "goldens"
    path = accept(goldens, golden(store, clip()))
    same_case = golden(store, clip(9, 32, 48), digest="e")
    found = check(goldens, same_case, store, tmp_path)
    assert "video of 9 x 64 x 64" in found.detail
    assert "one of 9 x 32 x 48" in found.detail
    assert check(goldens, golden(store, clip(), torch="3")).outcome == "environment_mismatch"
    assert check(goldens, golden(store, clip())).outcome == "matches"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(Exception, match="accept the result again"):
        check(goldens, golden(store, clip()))
