"""All renders of a pair looked at once: every video is decoded, read and scored in a single pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.judge.distances import compare_traces
from harness.metrics import examine, to_jsonable
from harness.metrics.readings import VideoReadings
from harness.records import RenderRecord, SeedDistances
from harness.render.frames import StoredVideo
from harness.render.kept import read_trace
from harness.store.store import Store

Scores = dict[str, list[dict[str, Any]]]
"""Metric -> one result a seed, as JSON values."""


@dataclass(frozen=True)
class Look:
    """What a pair's videos show; by role, and within it in the order of the seeds."""

    scores: dict[str, Scores] = field(default_factory=dict[str, Scores])
    readings: dict[str, list[VideoReadings]] = field(default_factory=dict[str, list[VideoReadings]])


def look(
    store: Store,
    reference: Sequence[RenderRecord],
    others: Mapping[str, Sequence[RenderRecord]],
    metrics: Mapping[str, Mapping[str, object]],
) -> Look:
    """Score every render of `others` (by role) against the reference's of the same seed; read all.

    Raises: StoreError, when a video is missing or damaged.
    """
    found = Look(
        {role: {name: [] for name in metrics} for role in others},
        {role: [] for role in ("reference", *others)},
    )
    for wanted, *records in zip(reference, *others.values(), strict=True):
        videos = {role: _video(store, r) for role, r in zip(others, records, strict=True)}
        seen = examine(_video(store, wanted), videos, metrics)
        found.readings["reference"].append(seen.reference)
        for role in others:
            found.readings[role].append(seen.candidates[role])
            for name, result in seen.scores[role].items():
                found.scores[role][name].append(to_jsonable(result))
    return found


def stored_distances(
    store: Store, reference: RenderRecord, candidate: RenderRecord
) -> SeedDistances:
    """How far two finished renders lie apart. Raises `StoreError` on a damaged trace."""
    traces = read_trace(store, reference), read_trace(store, candidate)
    return compare_traces(reference, candidate, *traces)


def _video(store: Store, record: RenderRecord) -> StoredVideo:
    return StoredVideo.open(store.render_folder(record.key) / "frames.mkv")
