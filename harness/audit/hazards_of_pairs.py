"""Hazards of a comparison: what differs between reference and candidate beside what is studied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.config.config import CandidateSpec, VariantSpec
from harness.records import Finding

_OF_PLACEMENT = frozenset({"backend", "placement", "use_stream"})
"""Offloading has a backend name of its own; these keys together are one setting."""

_HARMLESS = frozenset({"patch", "python", "threads", "vae_slicing", "revision"})
_SOURCES = frozenset({"checkpoint", "config", "text_encoder"})
"""Where one side finds the same model in its own format."""


def pair_hazards(reference: VariantSpec, candidate: CandidateSpec) -> Iterable[Finding]:
    """What makes a difference between these two hard to attribute."""
    unlike = differing_options(reference, candidate)
    pair = f"{candidate.name} against {reference.name}"
    if "vae_tiling" in unlike:
        yield Finding(
            kind="config",
            name="vae_tiling",
            detail=f"{pair}: VAE tiling is {_both(unlike['vae_tiling'])}; tiles blend at their seams"
            " and change the tone, which looks like a fault of the decoder",
            remedy="set vae_tiling alike on both sides",
            component="decoder",
        )
    if "device" in unlike:
        yield Finding(
            kind="config",
            name="device",
            detail=f"{pair}: device is {_both(unlike['device'])}; other hardware has other kernels,"
            " whose rounding adds to whatever else differs",
            remedy="run both on one device, or study the hardware alone",
        )
    loras = sorted(key for key in unlike if key.startswith("lora"))
    if loras:
        values = "; ".join(f"{key} is {_both(unlike[key])}" for key in loras)
        yield Finding(
            kind="config",
            name="lora",
            detail=f"{pair}: {values}; the two do not run the same weights",
            remedy="give both sides the same LoRA, scale and mode, unless that is what is compared",
            component="transformer",
        )
    settings = _counted(unlike)
    if len(settings) > 1:
        values = "; ".join(f"{key}: {_both(unlike[key])}" for key in sorted(unlike))
        yield Finding(
            kind="config",
            name=",".join(sorted(unlike)),
            detail=f"{pair}: {len(settings)} settings differ at once ({values}); a gap cannot be put"
            " down to one of them",
            remedy="change one setting at a time, or ask for each one's share with `parity bisect`",
        )


def differing_options(reference: VariantSpec, candidate: VariantSpec) -> dict[str, tuple[Any, Any]]:
    """The settings in which two variants differ, as (reference, candidate); keys that only one
    backend has are no difference unless they change its mathematics."""
    left: dict[str, Any] = {"backend": reference.backend, **reference.options}
    right: dict[str, Any] = {"backend": candidate.backend, **candidate.options}
    same_stack = set(reference.options) == set(candidate.options)
    keys = set(left) | set(right) if same_stack else set(left) & set(right)
    return {
        key: (left.get(key), right.get(key))
        for key in sorted(keys - _HARMLESS - _SOURCES)
        if left.get(key) != right.get(key) and not _follow(key, left, right)
    }


def _follow(key: str, left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether a part's dtype is the same on both sides, null being what `dtype` says."""
    if key not in ("vae_dtype", "text_dtype"):
        return False
    mine, other = (side.get(key) or side.get("dtype") for side in (left, right))
    return mine == other


def _counted(unlike: dict[str, tuple[Any, Any]]) -> set[str]:
    return {"placement" if key in _OF_PLACEMENT else key for key in unlike}


def _both(values: tuple[Any, Any]) -> str:
    return " and ".join(str(value) for value in values)
