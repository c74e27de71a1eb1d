"""Infinities and NaN reach the other side of a JSON file, and nothing else is let through."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from harness.metrics import (
    Unscored,
    record_from_jsonable,
    result_from_jsonable,
    score_pair,
    to_jsonable,
)
from harness.metrics.readings import VideoReadings, read_video


def through_json(record):
    return json.loads(json.dumps(to_jsonable(record), allow_nan=False))


def test_infinities_and_nan_survive(clip):
    score = score_pair(clip, clip, {"psnr": {}})["psnr"]
    score = replace(score, value=-math.inf, extra={"series": (math.inf, math.nan, 1.5)})
    values = through_json(score)
    assert values["value"] == "-inf"
    assert values["per_frame"][0] == "inf"
    assert values["extra"]["series"] == ["inf", "nan", 1.5]

    back = result_from_jsonable(values)
    assert back.value == -math.inf
    assert math.isnan(back.extra["series"][1])
    assert replace(back, extra={}) == replace(score, extra={})


def test_unscored_survives():
    record = Unscored("lpips", "no weights", "fetch them")
    assert result_from_jsonable(through_json(record)) == record


def test_readings_survive():
    readings = read_video(np.zeros((1, 8, 8, 3), dtype=np.uint8))
    values = through_json(readings)
    assert values["motion_energy"]["value"] == "nan"
    back = record_from_jsonable(VideoReadings, values)
    assert math.isnan(back.motion_energy.value)
    assert replace(back, motion_energy=readings.motion_energy) == readings


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'verdict', expected one of"):
        result_from_jsonable({"kind": "verdict"})


def test_a_damaged_record_is_refused(clip):
    values = through_json(score_pair(clip, clip, {"psnr": {}})["psnr"])
    del values["spec"]
    with pytest.raises(ValidationError, match="spec"):
        result_from_jsonable(values)
