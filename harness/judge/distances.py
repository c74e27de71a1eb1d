"""How far two renders lie apart, from their traces: exact where tensors are kept, sketched elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.judge.measured import Array
from harness.metrics.latents import latent_distance
from harness.records import RenderRecord, SeedDistances


def _relative(a: NDArray[np.float32], b: NDArray[np.float32]) -> list[float]:
    gap = np.linalg.norm(b.astype(np.float64) - a, axis=1)
    size = np.linalg.norm(a.astype(np.float64), axis=1)
    return [
        float(g / s) if s > 0 else (0.0 if g == 0 else math.inf)
        for g, s in zip(gap, size, strict=True)
    ]


def same_frames(a: RenderRecord, b: RenderRecord) -> bool:
    """Whether both have float frames, equal in every bit."""
    return (
        a.frames is not None
        and b.frames is not None
        and a.frames.float_digest == b.frames.float_digest
    )


def same_result(a: RenderRecord, b: RenderRecord) -> bool:
    """Whether final latents and float frames are equal in every bit."""
    return same_frames(a, b) and a.latents_digest == b.latents_digest


def compare_traces(
    reference: RenderRecord,
    candidate: RenderRecord,
    a: Mapping[str, Array],
    b: Mapping[str, Array],
) -> SeedDistances:
    """Distances of two finished renders of one case and seed, whose traces are `a` and `b`.

    Renders with different numbers of steps have no per-step distances, and latents of different
    shapes have no distance at all: None, never zero.
    """
    same_steps = len(reference.steps) == len(candidate.steps)
    pairs = zip(reference.steps, candidate.steps, strict=False)
    differing = (i for i, (r, c) in enumerate(pairs) if r.latents_digest != c.latents_digest)
    final_a, final_b = a["final_latents"], b["final_latents"]
    return SeedDistances(
        seed=reference.seed,
        latents_rel_l2=latent_distance(final_a, final_b)
        if final_a.shape == final_b.shape
        else None,
        per_step_rel_l2=_relative(a["latents_sketches"], b["latents_sketches"])
        if same_steps
        else [],
        first_step=next(differing, None),
        frames_equal=same_frames(reference, candidate),
        latents_equal=reference.latents_digest == candidate.latents_digest,
    )
