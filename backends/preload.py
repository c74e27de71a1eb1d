"""What workers import when they open and run a pipeline, imported ahead.

Modules that register something (patches, fault plugins) stay out: a worker has what it asked for only.
"""

from __future__ import annotations

import contextlib
from importlib import import_module

_MODULES = (
    "backends.answers",
    "backends.diffusers_acceleration",
    "backends.diffusers_conditioning",
    "backends.diffusers_identity",
    "backends.diffusers_pipeline",
    "backends.diffusers_placement",
    "backends.diffusers_run",
    "backends.given",
    "backends.healthy",
    "backends.micro",
    "backends.offload_audit",
    "backends.registry",
    "backends.worker",
    "peft",
    "backends.sat.engine",
    "backends.sat.identity",
    "backends.sat.run",
    "backends.sat.source",
)
# Diffusers and transformers import a class when it is first asked for.
_CLASSES = {
    "diffusers": (
        "AutoencoderKLCogVideoX",
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "CogVideoXImageToVideoPipeline",
        "CogVideoXPipeline",
        "CogVideoXTransformer3DModel",
        "CogVideoXVideoToVideoPipeline",
    ),
    "transformers": ("AutoTokenizer", "T5EncoderModel", "T5Tokenizer", "T5TokenizerFast"),
}


def import_stacks() -> None:
    """Import what workers import when they open and run a pipeline, where it is there.

    What fails here fails again in the worker that needs it, which says so to its user.
    """
    for name in _MODULES:
        with contextlib.suppress(Exception):
            import_module(name)
    for package, names in _CLASSES.items():
        for name in names:
            with contextlib.suppress(Exception):
                getattr(import_module(package), name)
