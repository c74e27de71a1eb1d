"""Random CogVideoX-5B checkpoints of full size in both formats, written block by block.

Both hold the same numbers. Nothing larger than one shard is ever in memory: the SAT file is laid out
by torch without its data, which is then written where torch will look for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from backends.checkpoints.mapping import transformer_table
from backends.checkpoints.rules import Rule, Table
from backends.checkpoints.sat.checkpoint import TRANSFORMER_PREFIX
from backends.checkpoints.sat.config import TransformerConfig

LAYERS, HIDDEN, TEXT, TIME = 42, 3072, 4096, 512
_SHARD_BLOCKS = 4
_POOL = 1 << 26

Shapes = dict[str, tuple[int, ...]]


def shapes() -> Shapes:
    """Every tensor of the 5B text-to-video transformer, canonical names."""
    found: Shapes = {
        **_linear("patch_embed.text_proj", HIDDEN, TEXT),
        "patch_embed.proj.weight": (HIDDEN, 16, 2, 2),
        "patch_embed.proj.bias": (HIDDEN,),
        **_linear("time_embedding.linear_1", TIME, HIDDEN),
        **_linear("time_embedding.linear_2", TIME, TIME),
        **_norm("norm_final", HIDDEN),
        **_norm("norm_out.norm", HIDDEN),
        **_linear("norm_out.linear", 2 * HIDDEN, TIME),
        **_linear("proj_out", 64, HIDDEN),
    }
    for i in range(LAYERS):
        block = f"transformer_blocks.{i}"
        for n in (1, 2):
            found |= _norm(f"{block}.norm{n}.norm", HIDDEN)
            found |= _linear(f"{block}.norm{n}.linear", 6 * HIDDEN, TIME)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            found |= _linear(f"{block}.attn1.{part}", HIDDEN, HIDDEN)
        for part in ("norm_q", "norm_k"):
            found |= _norm(f"{block}.attn1.{part}", 64)
        found |= _linear(f"{block}.ff.net.0.proj", 4 * HIDDEN, HIDDEN)
        found |= _linear(f"{block}.ff.net.2", HIDDEN, 4 * HIDDEN)
    return found


def write_both(folder: Path, config: TransformerConfig) -> tuple[Path, Path]:
    """Write `diffusers/` and `sat/` component folders into `folder`; returns their paths."""
    diffusers, sat = folder / "diffusers", folder / "sat"
    table = transformer_table(config)
    with _SatFile(sat, table) as states:
        weight_map: dict[str, str] = {}
        for number, names in enumerate(_shards()):
            tensors = {name: _random(name, shape) for name, shape in names.items()}
            file = f"diffusion_pytorch_model-{number:05d}.safetensors"
            diffusers.mkdir(parents=True, exist_ok=True)
            save_file(tensors, diffusers / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, file)
            states.write(tensors)
    index = {"metadata": {}, "weight_map": weight_map}
    (diffusers / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return diffusers, sat


class _SatFile:
    """A SAT checkpoint whose tensors are filled in one by one, in any order."""

    def __init__(self, folder: Path, table: Table) -> None:
        path = folder / "1" / "mp_rank_00_model_states.pt"
        path.parent.mkdir(parents=True)
        (folder / "latest").write_text("1")
        known = shapes()
        with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
            state = {
                TRANSFORMER_PREFIX + rule.sat: torch.empty(
                    _whole(rule, known), dtype=torch.bfloat16
                )
                for rule in table.rules
            }
            torch.save({"module": state}, path)
        with FakeTensorMode():
            laid_out = torch.load(path, weights_only=True)["module"]
        self._offsets = {
            name.removeprefix(TRANSFORMER_PREFIX): tensor.untyped_storage()._checkpoint_offset
            for name, tensor in laid_out.items()
        }
        self._rules = table.rules
        self._file = path.open("r+b")

    def __enter__(self) -> _SatFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Fill in every SAT tensor that these canonical tensors make up."""
        for rule in self._rules:
            if all(name in tensors for name in rule.diffusers):
                joined = rule.layout.join([tensors[name] for name in rule.diffusers]).contiguous()
                self._file.seek(self._offsets[rule.sat])
                self._file.write(joined.view(torch.uint8).reshape(-1).numpy().data)


def _whole(rule: Rule, known: Shapes) -> tuple[int, ...]:
    parts = [known[name] for name in rule.diffusers]
    return (sum(part[0] for part in parts), *parts[0][1:])


def _shards() -> Iterator[Shapes]:
    known = shapes()
    loose = {n: s for n, s in known.items() if not n.startswith("transformer_blocks.")}
    yield loose
    for start in range(0, LAYERS, _SHARD_BLOCKS):
        numbers = range(start, min(start + _SHARD_BLOCKS, LAYERS))
        yield {n: s for n, s in known.items() for i in numbers if f"blocks.{i}." in n}


@cache
def _pool() -> Tensor:
    """bfloat16 values of either sign between 2^-11 and 2^-3, more than any tensor has."""
    bits = np.frombuffer(np.random.Generator(np.random.SFC64(0)).bytes(_POOL * 2), dtype=np.uint16)
    values = (bits & 0x807F) | ((((bits >> 7) & 7) + 116) << 7)
    return torch.from_numpy(values.astype(np.uint16).view(np.int16)).view(torch.bfloat16)


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor called `name`: a stretch of the pool that begins at a place of its own."""
    count = int(np.prod(shape))
    digest = hashlib.sha256(name.encode()).digest()
    start = int.from_bytes(digest[:8], "little") % (_POOL - count)
    return _pool()[start : start + count].clone().view(shape)


def _linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
