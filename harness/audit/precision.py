"""Hazards of the dtype in which a variant runs a model."""

from __future__ import annotations

from collections.abc import Iterable

from harness.audit.families import Family
from harness.audit.models import Model, stored_dtype, stored_range
from harness.config.config import VariantSpec
from harness.records import Finding

_FP16_MAX = 65504.0


def precision_hazards(
    variant: VariantSpec, model: Model, place: str, *, own_text: bool
) -> Iterable[Finding]:
    """What the dtypes of `variant`, configured at `place`, do to `model`'s weights and to T5.

    `own_text`: whether its own text encoder is used at all.
    """
    dtype = variant.options.get("dtype")
    where = f"{place}.dtype"
    if dtype == "float16":
        yield from _half(variant.name, where, model)
    elif dtype == "bfloat16" and _meant(model) == "float16":
        yield Finding(
            kind="config",
            name=where,
            detail=f"{variant.name} runs {model.name} in bfloat16; {_authors(model)}float16, and"
            " bfloat16 keeps three bits of its weights less",
            remedy=f"set {where}=float16 (or float32), and the other side alike",
            component="transformer",
        )
    if variant.backend == "sat" and dtype == "float16" and own_text:
        yield Finding(
            kind="config",
            name=where,
            detail=f"{variant.name} casts T5 to float16 as a whole, as SAT does; its `wo` overflows"
            " there, and the embedding can become NaN. Diffusers keeps `wo` in float32",
            remedy="let the other side give the text embedding (match.text=shared), or run in"
            " bfloat16",
            component="text",
        )


def _half(variant: str, where: str, model: Model) -> Iterable[Finding]:
    path = model.path
    wider = path is not None and stored_dtype(path) in ("bfloat16", "float32")
    found = stored_range(path) if path is not None and wider else None
    if found is not None and found.largest > _FP16_MAX:
        yield Finding(
            kind="config",
            name=where,
            detail=f"{variant} runs {model.name} in float16, which ends at {_FP16_MAX:.0f}; its"
            f" weights reach {found.largest:.3g} ({found.tensor}, stored in {found.dtype}): they"
            " become infinite, and the video black",
            reference=found.largest,
            component="transformer",
            block=found.tensor.partition(".")[2].rpartition(".")[0],
            remedy="run in bfloat16 or float32",
        )
    elif _meant(model) == "bfloat16":
        yield Finding(
            kind="config",
            name=where,
            detail=f"{variant} runs {model.name} in float16; {_authors(model)}bfloat16, whose range"
            " its activations need: beyond 65504 they become infinite, and the video black",
            component="transformer",
            remedy="run in bfloat16 or float32",
        )


def _meant(model: Model) -> str | None:
    """The dtype that a model is meant for: as its weights are stored, else as its family's."""
    stored = stored_dtype(model.path) if model.path is not None else None
    if stored in ("bfloat16", "float16"):
        return stored
    family: Family | None = model.family
    return family.dtype if family is not None and model.full_size else None


def _authors(model: Model) -> str:
    stored = stored_dtype(model.path) if model.path is not None else None
    return "its weights are stored in " if stored else "its authors recommend "
