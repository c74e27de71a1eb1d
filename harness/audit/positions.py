"""Findings about position embeddings: learned ones that were not loaded, tables not as configured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from backends.checkpoints import Source, sin_cos
from backends.checkpoints.relation import CLOSE, cosine, sample
from harness.audit.compare import Pair
from harness.records import Finding

_NAME = "transformer.patch_embed.pos_embedding"
_SIZES = ("num_attention_heads", "attention_head_dim", "sample_frames", "sample_height",
          "sample_width", "patch_size", "temporal_compression_ratio")  # fmt: skip
_STARTS = (1.0, 0.02)
"""Of `torch.nn.Embedding`, and of most transformers."""


def position_findings(pairs: list[Pair], a: Source, b: Source) -> list[Finding]:
    """What became of the learned embedding in `pairs`, and whether the tables that `a` and `b` store are
    those configured.

    The pair concerned is marked `told`, so that it is told once.
    """
    found = [finding for side, word in ((a, "reference"), (b, "candidate"))
             for finding in _tables(side, word)]  # fmt: skip
    pair = next((pair for pair in pairs if pair.name == _NAME and pair.status != "identical"), None)
    if pair is not None and (finding := _learned(pair, b if b.configs else a)) is not None:
        pair.told = True
        found.append(finding)
    return found


def _learned(pair: Pair, source: Source) -> Finding | None:
    if pair.status == "missing":
        what = (
            "the candidate lacks the learned position embedding; loading it would leave the sin-cos"
            " default, or None, in its place"
        )
    elif pair.status in ("rounded", "same_values") or not pair.comparable:
        return None
    elif pair.relation is not None and pair.relation.kind == "zeros":
        what = "all zeros: the learned position embedding was not loaded"
    else:
        learned, stored = pair.load_a(), pair.load_b()
        scale = _sin_cos_scale(stored, source)
        fresh = _is_fresh(stored) and not _is_fresh(learned)
        spreads = float(learned.float().std()), float(stored.float().std())
        pair.release()
        if scale is None and not fresh:
            return None
        came = (
            f"normal noise of standard deviation {spreads[1]:.2g}, as a table begins before it is"
            f" trained or loaded (the reference has {spreads[0]:.2g}),"
            if fresh
            else f"the sin-cos default (interpolation {scale})"
        )
        what = (
            f"{came} stands where the reference has learned positions: the embedding was not loaded"
        )
    return Finding(
        kind="weights",
        name=_NAME,
        detail=f"{_NAME}: {what}",
        component="transformer",
        block="patch_embed",
        remedy="Copy the tensor from the reference, and set use_learned_positional_embeddings",
    )


def _is_fresh(table: Tensor) -> bool:
    """Whether the values cannot be told from normal noise with the deviation 1 or 0.02 that
    embeddings begin with: mean, deviation and kurtosis within five standard errors."""
    values = table.double().flatten()
    count, deviation = values.numel(), float(values.std())
    scaled = (values - values.mean()) / max(deviation, 1e-300)
    near = any(abs(deviation / start - 1) < 5 / math.sqrt(2 * count) for start in _STARTS)
    centred = abs(float(values.mean())) < 5 * deviation / math.sqrt(count)
    kurtosis = float(scaled.pow(4).mean()) - 3
    return near and centred and abs(kurtosis) < 5 * math.sqrt(24 / count)


def _sin_cos_scale(stored: Tensor, source: Source) -> tuple[float, float] | None:
    """The (spatial, temporal) interpolation whose sin-cos table `stored` is, within 0.01.

    The scales are read off the table's own first sines, sin(1 / scale). None where the settings do not
    say the sizes.
    """
    settings = source.configs or {}
    values = [settings.get(f"transformer.{key}") for key in _SIZES]
    if stored.ndim != 3 or any(value is None for value in values):
        return None
    heads, width, frames, height, breadth, patch, ratio = (int(v) for v in values if v is not None)
    grid = ((frames - 1) // ratio + 1, height // patch, breadth // patch)
    hidden, patches, in_frame = heads * width, math.prod(grid), grid[1] * grid[2]
    if stored.shape[-1] != hidden or stored.shape[-2] < patches:
        return None
    video = stored[0, -patches:].float()
    firsts = (video[1, hidden // 4], video[in_frame % patches, 0])
    angles = [math.asin(min(1.0, abs(float(first)))) for first in firsts]
    if not all(angles):
        return None
    spatial, temporal = (round(1 / angle, 3) for angle in angles)
    table = sin_cos(grid, hidden, (temporal, spatial, spatial))
    return (spatial, temporal) if bool(((table - video).abs() < 0.01).all()) else None


def _tables(source: Source, which: str) -> Iterable[Finding]:
    for name, (stored, expected, _) in source.tables.items():
        if expected is None:
            continue
        tensor = stored.load()
        problem = _unlike(tensor, expected)
        stored.release()
        if problem:
            yield Finding(
                kind="weights",
                name=name,
                detail=f"{name}: the table that the {which} stores is not the one that its settings"
                f" imply ({problem}); Diffusers computes it from the settings and would run another"
                " model",
                component="transformer",
                block="patch_embed",
                remedy="Use the settings that this checkpoint was trained with (interpolation"
                " scales, sample size, frames, text length)",
            )


def _unlike(tensor: Tensor, expected: Callable[[], Tensor]) -> str | None:
    wanted = expected()
    if tensor.shape != wanted.shape:
        return f"shape {tuple(tensor.shape)}, not {tuple(wanted.shape)}"
    # Sine and cosine differ by an ulp between maths libraries.
    step = torch.finfo(tensor.dtype).eps
    gap = float((tensor.double() - wanted.to(tensor.dtype).double()).abs().max())
    if gap <= step:
        return None
    if not bool(tensor.any()):
        return "it is all zeros"
    likeness = cosine(sample(tensor), sample(wanted))
    return f"values up to {gap:.3g} away" + ("" if likeness > CLOSE else ", another table")
