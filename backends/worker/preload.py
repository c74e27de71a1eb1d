"""What workers import when they open and run a pipeline of a stack, imported ahead.

Modules that register something (patches, fault plugins) stay out: a worker has what it asked for only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib import import_module

_ALWAYS = (
    "backends.stages.answers",
    "backends.stages.given",
    "backends.stages.healthy",
    "backends.registry",
    "backends.worker.worker",
)
_MODULES = {
    "diffusers": (
        "backends.diffusers.acceleration",
        "backends.diffusers.conditioning",
        "backends.diffusers.identity",
        "backends.diffusers.adapter",
        "backends.diffusers.placement",
        "backends.diffusers.run",
        "backends.micro",
        "backends.stages.weights_in_use",
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


def import_always() -> None:
    """Import what every worker imports, torch among it."""
    _import(_ALWAYS)


def import_stack(backend: str) -> None:
    """Import what workers import when they open and run a pipeline of `backend`, where it is there;
    nothing for a backend that is not one of this project's.

    What fails here fails again in the worker that needs it, which says so to its user.
    """
    stack = "diffusers" if backend == "diffusers_offload" else backend
    if stack not in _MODULES:
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
