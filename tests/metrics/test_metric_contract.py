"""What holds for every row of the registry."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from harness.metrics import (
    Score,
    Unscored,
    build_options,
    load_metric,
    metric_names,
    result_from_jsonable,
    score_pair,
    to_jsonable,
)

pytestmark = pytest.mark.usefixtures("one_torch_thread")
every_metric = pytest.mark.parametrize("name", metric_names())
# flicker reads the mean of a frame, which independent noise hardly moves: see the defects
seeing_noise = pytest.mark.parametrize("name", [n for n in metric_names() if n != "flicker"])
# a still patch moves no temporal metric
seeing_still_defects = pytest.mark.parametrize(
    "name", [n for n in metric_names() if load_metric(n).traits.minimum_frames == 1]
)


def score(name, reference, candidate) -> Score:
    result = score_pair(reference, candidate, {name: {}})[name]
    assert isinstance(result, Score), result
    return result


@every_metric
def test_equal_videos_have_the_perfect_value_everywhere(name, clip):
    result = score(name, clip, clip.copy())
    perfect = load_metric(name).traits.perfect
    assert result.value == perfect
    assert set(result.per_frame) == {perfect}
    assert result.worst_frame.value == perfect
    assert result.worst_region.value == perfect


@every_metric
def test_symmetry_where_it_is_claimed(name, clip, with_noise):
    noisy = with_noise(4.0)
    forward, backward = score(name, clip, noisy), score(name, noisy, clip)
    equal = math.isclose(forward.value, backward.value, rel_tol=1e-4)
    assert equal == load_metric(name).traits.symmetric


@every_metric
def test_bytes_and_floats_agree(name, clip, with_noise):
    noisy = with_noise(4.0)
    floats = [frames.astype(np.float32) / np.float32(255.0) for frames in (clip, noisy)]
    assert score(name, *floats).value == pytest.approx(score(name, clip, noisy).value, rel=1e-4)


@seeing_noise
def test_worse_with_more_noise(name, clip, with_noise):
    values = [score(name, clip, with_noise(deviation)).value for deviation in (1.0, 3.0, 9.0, 27.0)]
    higher_is_better = load_metric(name).traits.higher_is_better
    assert values == sorted(values, reverse=higher_is_better)
    assert len(set(values)) == 4


@every_metric
def test_flicker_grows_with_the_jitter_and_the_rest_with_it(name, clip):
    signs = np.where(np.arange(len(clip)) % 2, 1, -1)[:, None, None, None]
    values = [
        score(name, clip, np.clip(clip + signs * step, 0, 255).astype(np.uint8)).value
        for step in (1, 3, 9)
    ]
    assert values == sorted(values, reverse=load_metric(name).traits.higher_is_better)


@every_metric
def test_another_shape_is_unscored_and_never_truncated(name, clip):
    for candidate in (clip[:-1], clip[:, :-8], clip[:, :, :-8]):
        result = score_pair(clip, candidate, {name: {}})[name]
        assert isinstance(result, Unscored)
        assert str(clip.shape) in result.reason
        assert str(candidate.shape) in result.reason
        assert result.remedy


@every_metric
def test_a_single_frame(name, clip):
    result = score_pair(clip[:1], clip[:1], {name: {}})[name]
    if load_metric(name).traits.minimum_frames == 1:
        assert isinstance(result, Score)
        assert len(result.per_frame) == 1
    else:
        assert isinstance(result, Unscored)
        assert "frames" in result.reason


@every_metric
def test_the_fewest_frames_that_are_claimed_suffice(name, clip):
    least = load_metric(name).traits.minimum_frames
    assert len(score(name, clip[:least], clip[:least]).per_frame) == 1


@every_metric
def test_tiny_frames_are_scored_or_say_why(name, clip):
    for side in (1, 2, 4, 8, 12, 16, 24, 33):
        tiny = np.ascontiguousarray(clip[:3, :side, :side])
        result = score_pair(tiny, tiny, {name: {}})[name]
        assert isinstance(result, Score) or "small" in result.reason


@every_metric
def test_frames_and_regions_lie_in_the_video(name, clip, with_noise):
    result = score(name, clip, with_noise(4.0))
    frames = range(result.first_frame, result.first_frame + len(result.per_frame))
    assert frames.stop <= len(clip)
    assert result.worst_frame.index in frames
    assert result.per_frame[result.worst_frame.index - result.first_frame] == (
        result.worst_frame.value
    )
    region = result.worst_region
    assert region.frame in frames
    assert 0 <= region.y < region.y + region.height <= clip.shape[1]
    assert 0 <= region.x < region.x + region.width <= clip.shape[2]


@seeing_still_defects
def test_a_bright_patch_is_where_the_worst_region_is(name, clip):
    patched = clip.copy()
    patched[4, 36:44, 84:92] = 255
    region = score(name, clip, patched).worst_region
    assert region.frame == 4
    assert region.y < 44
    assert region.y + region.height > 36
    assert region.x < 92
    assert region.x + region.width > 84


@every_metric
def test_not_contiguous_frames_are_read_as_they_are(name, clip, with_noise):
    noisy = with_noise(4.0)
    turned = [frames.transpose(0, 2, 1, 3) for frames in (clip, noisy)]
    copied = [np.ascontiguousarray(frames) for frames in turned]
    assert score(name, *turned).value == score(name, *copied).value


@every_metric
def test_records_survive_json(name, clip, with_noise):
    for candidate in (clip, with_noise(4.0)):
        result = score(name, clip, candidate)
        text = json.dumps(to_jsonable(result), allow_nan=False)
        assert result_from_jsonable(json.loads(text)) == result


@every_metric
def test_the_spec_names_the_metric_and_its_options(name, clip):
    result = score(name, clip, clip)
    assert result.spec.name == name
    assert result.spec.options == build_options(name, {}).model_dump()
    other = load_metric(name).traits.spec(build_options(name, {"tile_px": 32}))
    assert other.cache_key() != result.spec.cache_key()
