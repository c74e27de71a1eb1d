"""What a verdict is decided from: answers of two sides to the same questions, and their native runs.

`harness.probe` and `harness.verdict` fill these records; `harness.judge` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import Case, ScheduleTable
from harness.records import PipelineRecord, RenderRecord

Array = NDArray[np.float32]

PRECISE = ("float32", "float64")
"""Dtypes that are not reduced; the probes themselves ask in float32."""

TRANSFORMER_MEMBERS = ("math", "split", "jitter:1", "jitter:2", "jitter:3")
OTHER_MEMBERS = ("channels_last", "jitter:1", "jitter:2", "jitter:3", "jitter:4")
"""Of text encoder and decoder, which the attention kernel and the guidance batch do not touch."""


@dataclass(frozen=True)
class Answers:
    """What came back: tensors as float32, facts by question, and the guided calls that it cost.

    `pipeline` is the identity of the pipeline that answered, as it was opened for the probe.
    """

    pipeline: PipelineRecord
    tensors: Mapping[str, Array] = field(default_factory=dict[str, Array])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    guided_calls: int = 0

    def __or__(self, other: Answers) -> Answers:
        """Both together, the cost added."""
        return Answers(
            self.pipeline,
            {**self.tensors, **other.tensors},
            {**self.facts, **other.facts},
            self.guided_calls + other.guided_calls,
        )


@dataclass(frozen=True)
class ProbeSettings:
    """Seeds that are judged, and seeds of their own that the healthy limits are measured on."""

    seeds: tuple[int, ...]
    calibration_seeds: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """One variant's answers: in float32, and as it is run if that is less precise."""

    full: Answers
    reduced: Answers | None


@dataclass(frozen=True)
class LocalData:
    """Everything that `harness.judge.local` decides from.

    `table` is the reference's schedule, which all answers used. `equalised` names the healthy member
    under which the reference answered "eq.s<seed>", or None. `reference_error` is, by step, how far the
    reference's own float32 velocity lies from its float64 one, where that was asked.
    """

    case: Case
    steps: tuple[int, ...]
    settings: ProbeSettings
    table: ScheduleTable
    reference: Side
    candidate: Side
    equalised: str | None
    reference_error: Mapping[int, float] = field(default_factory=dict[int, float])


@dataclass(frozen=True)
class Links:
    """One native render beside what the reference's float32 stages make of its inputs.

    `role` is `reference` or `candidate`. `trace` holds the render's tensors (`backends.stages.trace`),
    `frames` its uint8 frames (T, H, W, 3), `table` the schedule that it used.
    """

    role: str
    record: RenderRecord
    trace: Mapping[str, Array]
    frames: NDArray[np.uint8]
    table: ScheduleTable
    steps: tuple[int, ...]
    answers: Answers


@dataclass(frozen=True)
class OwnInputs:
    """What one side makes itself of a case before the first step.

    `text` and `negative_text` are its embeddings in float32, `schedule` the table that it would follow,
    `latent_dtype` the dtype of its latents, `image_scale` what it multiplies a picture's latents by,
    None for a case without one.
    """

    text: Array
    negative_text: Array
    schedule: ScheduleTable
    latent_dtype: str
    image_scale: float | None
