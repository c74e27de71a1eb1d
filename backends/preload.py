"""What workers import when they open and run a pipeline of a stack, imported ahead.

Modules that register something (patches, fault plugins) stay out: a worker has what it asked for only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib import import_module

_ALWAYS = (
    "backends.answers",
    "backends.given",
    "backends.healthy",
    "backends.registry",
    "backends.worker",
)
_MODULES = {
    "diffusers": (
        "backends.diffusers_acceleration",
        "backends.diffusers_conditioning",
        "backends.diffusers_identity",
        "backends.diffusers_pipeline",
        "backends.diffusers_placement",
        "backends.diffusers_run",
        "backends.micro",
        "backends.offload_audit",
        "peft",
    ),
    "sat": (
        "backends.micro",
        "backends.sat.engine",
        "backends.sat.identity",
        "backends.sat.run",
        "backends.sat.source",
    ),
}
# Diffusers and transformers import a class when it is first asked for.
_DIFFUSERS_CLASSES = (
    "AutoencoderKLCogVideoX",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "CogVideoXImageToVideoPipeline",
    "CogVideoXPipeline",
    "CogVideoXTransformer3DModel",
    "CogVideoXVideoToVideoPipeline",
)
_TEXT_CLASSES = ("AutoTokenizer", "T5EncoderModel", "T5Tokenizer", "T5TokenizerFast")
_CLASSES = {
    "diffusers": {"diffusers": _DIFFUSERS_CLASSES, "transformers": _TEXT_CLASSES},
    "sat": {"transformers": _TEXT_CLASSES},
}
_CODES = {"diffusers": b"d", "sat": b"s"}
NOTHING = b"-"
"""The code of a worker whose stack nobody here knows."""


def code_of(backend: str | None) -> bytes:
    """The byte that asks a fork server to import the stack of `backend` first."""
    stack = "diffusers" if backend == "diffusers_offload" else backend
    return _CODES.get(stack or "", NOTHING)


def import_always() -> None:
    """Import what every worker imports, torch among it."""
    _import(_ALWAYS)


def import_stack(code: bytes) -> None:
    """Import what workers of a stack import when they open and run a pipeline, where it is there.

    What fails here fails again in the worker that needs it, which says so to its user.
    """
    stack = next((name for name, known in _CODES.items() if known == code), None)
    if stack is None:
        return
    _import(_MODULES[stack])
    for package, names in _CLASSES[stack].items():
        for name in names:
            with contextlib.suppress(Exception):
                getattr(import_module(package), name)


def _import(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):
            import_module(name)
