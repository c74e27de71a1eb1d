"""Every backend and placement that a machine without an accelerator can run.

CogVideo's own code is held to the contract, too, where PARITY_COGVIDEO_SAT names the `sat` folder of
a checkout of tag v1.0.
"""

import os
from dataclasses import dataclass
from typing import Any

import pytest

from backends import registry
from backends.base import Backend, Pipeline
from backends.errors import MissingPrerequisite

CPU: dict[str, Any] = {"device": "cpu"}


@dataclass(frozen=True)
class Row:
    """One way to run one model."""

    backend: str
    model: str
    options: dict[str, Any]

    def __str__(self) -> str:
        changed = [
            "cogvideo" if key == "repo" else str(value)
            for key, value in self.options.items()
            if key != "device"
        ]
        return "-".join([self.backend, self.model, *changed])

    @property
    def size(self) -> int:
        """Height and width in pixels; SAT renders a model at its own size only."""
        return 64 if self.backend == "sat" else 32

    def open(self, **changes: Any) -> Pipeline:
        return loaded(self.backend, self.options).open(self.model, self.options | changes)


def loaded(backend: str, options: dict[str, Any] = CPU) -> Backend:
    """The backend, or a skip that says what its stack lacks here."""
    found = registry.load(backend)
    try:
        found.check(options)
    except MissingPrerequisite as error:
        pytest.skip(f"{backend} cannot run here: {error}")
    return found


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline: its row, and what its smallest case needs beside the usual."""

    row: Row
    changes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.row}{'-v2v' if 'video' in self.changes else ''}"


PICTURE = {"image": "micro:red-circle.png"}
CLIP = {"video": "micro:blue-square-clip.png", "strength": 0.6, "steps": 5}
OFFLOADED = CPU | {"placement": "model_offload", "dtype": "bfloat16", "vae_dtype": "float32"}
FITTING = PICTURE | {"frames": 17, "size": 64}
"""Learned positions fit one size and length only."""

KINDS = [
    Kind(Row("diffusers", "micro-1.5-5b", CPU), {}),
    Kind(Row("diffusers", "micro-1.5-5b-i2v", CPU), PICTURE),
    Kind(Row("diffusers", "micro-5b-i2v", CPU), FITTING),
    Kind(Row("diffusers", "micro-5b", CPU), CLIP),
    Kind(Row("diffusers", "micro-1.5-5b", CPU), CLIP | {"frames": 13}),
    Kind(Row("diffusers_offload", "micro-1.5-5b-i2v", OFFLOADED), PICTURE),
    Kind(Row("diffusers_offload", "micro-5b", OFFLOADED), CLIP),
]
BLOCKWISE = CPU | {"placement": "group_offload_block"}
LEAFWISE = CPU | {"placement": "group_offload_leaf"}
FURTHER = [
    Kind(Row("sat", "micro-1.5-5b", CPU | {"dtype": "bfloat16"}), {"size": 32}),
    Kind(Row("sat", "micro-1.5-5b-i2v", CPU), PICTURE | {"size": 32}),
    Kind(Row("sat", "micro-5b-i2v", CPU), PICTURE),
    Kind(Row("diffusers_offload", "micro-1.5-5b", OFFLOADED), {}),
    Kind(Row("diffusers_offload", "micro-5b-i2v", BLOCKWISE), FITTING),
    Kind(Row("diffusers", "micro-2b", CPU), CLIP),
    Kind(Row("diffusers_offload", "micro-2b", LEAFWISE), CLIP),
    Kind(Row("diffusers_offload", "micro-1.5-5b", BLOCKWISE), CLIP | {"frames": 13}),
]
"""The rest of models, backends and kinds, of which only the first promise is checked."""

STACKS = [
    Row("diffusers", "micro-2b", CPU),
    Row("diffusers", "micro-5b", CPU | {"dtype": "bfloat16"}),
    Row("sat", "micro-2b", CPU),
    Row("sat", "micro-5b", CPU | {"dtype": "bfloat16"}),
]
if COGVIDEO := os.environ.get("PARITY_COGVIDEO_SAT"):
    STACKS += [
        Row("sat", "micro-2b", CPU | {"repo": COGVIDEO}),
        Row("sat", "micro-5b", CPU | {"repo": COGVIDEO, "dtype": "bfloat16"}),
    ]
PLACEMENTS = [
    Row("diffusers_offload", "micro-2b", CPU | {"placement": "model_offload"}),
    Row("diffusers_offload", "micro-5b", CPU | {"placement": "model_offload", "dtype": "bfloat16"}),
    Row("diffusers_offload", "micro-5b", CPU | {"placement": "sequential_offload"}),
    Row("diffusers_offload", "micro-2b", CPU | {"placement": "group_offload_block"}),
    Row("diffusers_offload", "micro-5b", CPU | {"placement": "group_offload_leaf"}),
    Row("diffusers_offload", "micro-5b", CPU | {"placement": "group_offload_block_disk"}),
    Row("diffusers_offload", "micro-2b", CPU | {"placement": "group_offload_leaf_disk"}),
]
