"""One pass over all candidates: what it computes once, what it keeps, and that it changes nothing."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest

from harness.errors import StoreError
from harness.metrics import (
    Score,
    Unscored,
    examine,
    lpips_model,
    metric_names,
    one_pass,
    score_candidates,
    score_pair,
    warp_error,
)
from harness.metrics.lpips_weights import backbone_in_use
from harness.metrics.readings import read_video
from harness.render.frames import StoredVideo, write_lossless

LIGHT = {name: {} for name in metric_names() if "lpips" not in name}
pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def candidates(clip, with_noise):
    return {
        "noisy": with_noise(4.0),
        "equal": clip.copy(),
        "late": clip[[0, 0, 1, 2, 3, 4, 5, 6, 7]],
    }


def test_together_they_score_as_each_alone(clip, candidates):
    together = score_candidates(clip, candidates, LIGHT)
    assert list(together) == list(candidates)
    for name, video in candidates.items():
        assert together[name] == score_pair(clip, video, LIGHT)


def test_the_flow_and_the_features_of_the_reference_are_computed_once(
    clip, candidates, monkeypatch
):
    flows, passes = [], []
    dense_flow, model = warp_error.dense_flow, lpips_model.pretrained_model(backbone_in_use())
    monkeypatch.setattr(warp_error, "dense_flow", lambda *a: flows.append(1) or dense_flow(*a))
    hook = model.net.register_forward_hook(lambda *_: passes.append(1))
    try:
        few = {name: video[:3] for name, video in candidates.items()}
        found = score_candidates(clip[:3], few, {"warp_error": {}, "lpips": {}})
    finally:
        hook.remove()
    assert len(flows) == 2
    assert len(passes) == 3 * (1 + len(candidates))
    assert found["equal"]["lpips"].value == 0.0
    assert found["noisy"]["lpips"].value != found["late"]["lpips"].value


def test_the_number_of_threads_does_not_matter(clip, candidates, monkeypatch):
    found = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(one_pass, "_cores", lambda n=cores: n)
        found.append(score_candidates(clip, candidates, LIGHT))
    assert found[0] == found[1] == found[2]


class Passing:
    """A long video whose frames exist while somebody holds them."""

    dtype = np.dtype(np.uint8)

    def __init__(self, count: int) -> None:
        self.shape = (count, 32, 48, 3)
        self.alive = self.most = 0

    def gone(self) -> None:
        self.alive -= 1

    def __iter__(self):
        for index in range(self.shape[0]):
            frame = np.full(self.shape[1:], index % 200, dtype=np.uint8)
            weakref.finalize(frame, self.gone)
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield frame
            del frame


@pytest.mark.parametrize("count", [12, 60])
def test_a_few_frames_are_in_memory_however_long_the_video_is(count, monkeypatch):
    monkeypatch.setattr(one_pass, "_cores", lambda: 2)
    gc.disable()  # frames must go when they are done with, not when the collector comes by
    try:
        videos = [Passing(count) for _ in range(3)]
        examine(videos[0], {"a": videos[1], "b": videos[2]}, LIGHT)
    finally:
        gc.enable()
    assert all(2 <= video.most <= 6 for video in videos)


def test_stored_videos_are_scored_while_they_are_decoded(tmp_path, clip, candidates):
    stored = {}
    for name, frames in {"reference": clip, **candidates}.items():
        write_lossless(tmp_path / f"{name}.mkv", frames, 8)
        stored[name] = StoredVideo.open(tmp_path / f"{name}.mkv")
    reference = stored.pop("reference")
    assert score_candidates(reference, stored, LIGHT) == score_candidates(clip, candidates, LIGHT)


def test_a_stored_video_that_is_damaged_gives_no_score(tmp_path, clip):
    path = tmp_path / "frames.mkv"
    write_lossless(path, clip, 8)
    content = bytearray(path.read_bytes())
    content[-len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        score_pair(clip, StoredVideo.open(path), LIGHT)


def test_readings_come_from_the_same_pass(clip, candidates):
    shorter = {**candidates, "shorter": clip[:4]}
    found = examine(clip, shorter, LIGHT)
    assert found.reference == read_video(clip)
    assert found.candidates == {name: read_video(video) for name, video in shorter.items()}
    assert found.scores == score_candidates(clip, shorter, LIGHT)
    assert all(isinstance(result, Unscored) for result in found.scores["shorter"].values())


def test_one_candidate_with_nan_does_not_cost_the_others(clip, candidates):
    floats = {name: video.astype(np.float32) / 255 for name, video in candidates.items()}
    floats["noisy"][5, 3, 3, 0] = math.nan
    scores = score_candidates(clip.astype(np.float32) / 255, floats, LIGHT)
    assert all("not finite, first in frame 5" in r.reason for r in scores["noisy"].values())
    for name in ("equal", "late"):
        assert all(isinstance(result, Score) for result in scores[name].values())
