"""Reading SAT checkpoints: tensors only, every key accounted for.

Layout: `transformer/latest` names an iteration,
`transformer/<iteration>/mp_rank_00_model_states.pt` holds {"module": tensors}, `vae/3d-vae.pt`
holds {"state_dict": tensors}.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from backends.checkpoints.diffusers.weight_files import read_torch_file
from backends.errors import CheckpointError, Unsupported

State = dict[str, Tensor]

TRANSFORMER_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "conditioner.embedders.0.transformer."

# Tables that are computed from the config, and an embedding that nothing reads.
OPTIONAL_TRANSFORMER_KEYS = frozenset(
    {
        "mixins.pos_embed.freqs_sin",
        "mixins.pos_embed.freqs_cos",
        "transformer.position_embeddings.weight",
    }
)
_SHOWN = 8


def read_tensors(path: Path, key: str) -> State:
    """The tensors under `key` of a torch file, memory-mapped.

    Raises `CheckpointError` when the file is missing, damaged, of another layout, or holds pickled
    code, which is never executed.
    """
    content = read_torch_file(path)
    tensors = cast(Any, content).get(key) if isinstance(content, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(
        isinstance(t, Tensor) for t in cast(Mapping[str, Any], tensors).values()
    ):
        raise CheckpointError(f"{path} holds no tensors under {key!r}; it is not such a checkpoint")
    return dict(cast(Mapping[str, Tensor], tensors))


def model_states_path(folder: Path) -> Path:
    """The file that `folder/latest` points to. Raises `CheckpointError`, `Unsupported`."""
    latest = folder / "latest"
    if not latest.is_file():
        raise CheckpointError(
            f"{latest} does not exist; expected a text file that names the iteration, such as 1000"
        )
    name = latest.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"[0-9]+|release", name):
        raise CheckpointError(f"{latest} says {name[:40]!r}, expected an iteration number")
    if (folder / name / "mp_rank_01_model_states.pt").exists():
        raise Unsupported(
            f"{folder / name} is split over model-parallel ranks; merge it into one file first"
        )
    return folder / name / "mp_rank_00_model_states.pt"


def split_components(state: State, where: Path) -> tuple[State, State, State]:
    """Split an engine's state into transformer, VAE and text encoder, prefixes removed.

    Released checkpoints hold the transformer only; fine-tuned ones may hold all, and what they hold
    takes precedence over `vae/` and the T5 folder, as in SAT.
    """
    parts: dict[str, State] = {TRANSFORMER_PREFIX: {}, VAE_PREFIX: {}, TEXT_PREFIX: {}}
    stray: list[str] = []
    for name, tensor in state.items():
        prefix = next((p for p in parts if name.startswith(p)), None)
        if prefix is None:
            stray.append(name)
        else:
            parts[prefix][name.removeprefix(prefix)] = tensor
    if stray:
        raise CheckpointError(
            f"{where} has {len(stray)} keys of no known component: {_names(stray)}; expected the"
            f" prefixes {', '.join(parts)}"
        )
    return parts[TRANSFORMER_PREFIX], without_loss(parts[VAE_PREFIX]), parts[TEXT_PREFIX]


def without_loss(state: State) -> State:
    """A VAE's state without the training loss's networks, which SAT ignores too."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("loss")}


def load_exactly(
    module: nn.Module, state: Mapping[str, Tensor], where: str, optional: Collection[str] = ()
) -> None:
    """Copy `state`, which came from `where`, into `module`, cast to the module's dtypes.

    Raises `CheckpointError` naming every kind of mismatch: missing keys (other than `optional`
    ones), unexpected keys, wrong shapes, integers for weights.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state and name not in optional]
    unexpected = [name for name in state if name not in expected]
    misshapen: list[str] = []
    whole: list[str] = []
    with torch.no_grad():
        for name in state:
            if name not in expected:
                continue
            tensor, target = state[name], expected[name]
            if target.is_floating_point() and not tensor.is_floating_point():
                whole.append(f"{name} {str(tensor.dtype).removeprefix('torch.')}")
            elif tensor.shape == target.shape:
                target.copy_(tensor)
            else:
                misshapen.append(f"{name} {tuple(tensor.shape)} not {tuple(target.shape)}")
    problems = [
        f"{len(found)} {kind}: {_names(found)}"
        for kind, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
            ("stored as integers, whose scales are not applied", whole),
        )
        if found
    ]
    if problems:
        raise CheckpointError(
            f"the weights in {where} do not fit the model that its configuration describes;"
            f" {'; '.join(problems)}. Use the configuration that belongs to this checkpoint"
        )


def _names(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _unchanged(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


@contextmanager
def without_initialisation() -> Generator[None]:
    """Build modules without drawing random weights, which loading would overwrite at once.

    Random-number state stays untouched, and a 5B model is built in seconds instead of minutes.
    """
    with ExitStack() as stack:
        for name in ("normal_", "uniform_", "trunc_normal_", "xavier_uniform_", "kaiming_uniform_"):
            stack.enter_context(patch.object(nn.init, name, _unchanged))
        yield
