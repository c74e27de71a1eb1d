"""Accelerations of Diffusers' transformer, each declared by an option and off by default.

People use them for speed or memory and ask what they cost in quality; here each is a variant to be
compared with the plain one. Caches keep state between calls, so a run starts by clearing it, and two
runs of one pipeline must not be driven in turns.
"""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import Case
from backends.diffusers.options import DiffusersOptions
from backends.errors import MissingPrerequisite, Unsupported

CACHES = {
    "pab": "PyramidAttentionBroadcastConfig",
    "fastercache": "FasterCacheConfig",
    "first_block": "FirstBlockCacheConfig",
}
_QUANTIZED = {"int8": "Int8WeightOnlyConfig", "float8": "Float8WeightOnlyConfig"}
_COMPILERS = "g++", "clang++"


def check_accelerations(options: DiffusersOptions, device: torch.device) -> None:
    """Raise `MissingPrerequisite` or `Unsupported` for what cannot be had here or together."""
    if options.quantization is not None and find_spec("torchao") is None:
        raise MissingPrerequisite(
            f"quantization={options.quantization} needs the package torchao; run `pip install"
            " torchao`, or set quantization=null"
        )
    compilers = [name for name in (os.environ.get("CXX"), *_COMPILERS) if name]
    if options.compile and device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise MissingPrerequisite(
            "compile=true makes C++ on the CPU, and there is no compiler"
            f" ({', '.join(compilers)}); install one or name it in CXX, or set compile=false"
        )
    diffusers = import_module("diffusers")
    if options.cache is not None and not hasattr(diffusers, CACHES[options.cache]):
        raise Unsupported(
            f"cache={options.cache}: diffusers {diffusers.__version__} has no"
            f" {CACHES[options.cache]}; install a later one, or set cache=null"
        )
    _check_together(options)


def _check_together(options: DiffusersOptions) -> None:
    stored = {
        "quantization": options.quantization is not None,
        "layerwise_casting": options.layerwise_casting is not None,
        "fuse_qkv": options.fuse_qkv,
    }
    changed = [name for name, chosen in stored.items() if chosen]
    if len(changed) > 1:
        raise Unsupported(
            f"{' with '.join(changed)}: each stores the transformer's weights in a way that the"
            " others do not know; choose one"
        )
    if changed and options.lora is not None:
        raise Unsupported(
            f"{changed[0]} with a lora: Diffusers treats the layers that carry it like any other, and"
            " fused projections take the weights without it; add the LoRA to the checkpoint first,"
            f" or leave {changed[0]} out"
        )
    replacing = [*changed, *(["compile"] if options.compile else [])]
    if replacing and options.placement != "full":
        raise Unsupported(
            f"{replacing[0]} with placement={options.placement}: the offload hooks move the weights,"
            " or wrap the calls, that it replaces; set placement=full"
        )


def check_guidance(options: DiffusersOptions, case: Case) -> None:
    """Raise `Unsupported` where FasterCache is to reuse an unconditional branch that there is not."""
    if options.cache == "fastercache" and case.guidance_scale <= 1:
        raise Unsupported(
            f"cache=fastercache with guidance_scale={case.guidance_scale:g}: it splits each batch into"
            " an unconditional and a conditional half, and without guidance there is one half only;"
            " set guidance_scale above 1, or cache=pab"
        )


def accelerate(pipe: Any, options: DiffusersOptions) -> None:
    """Apply what `options` ask for to `pipe`'s transformer, in place, before it is placed."""
    transformer = pipe.transformer
    if options.quantization is not None:
        torchao = import_module("torchao.quantization")
        torchao.quantize_(transformer, getattr(torchao, _QUANTIZED[options.quantization])())
    if options.layerwise_casting is not None:
        transformer.enable_layerwise_casting(
            storage_dtype=getattr(torch, options.layerwise_casting),
            compute_dtype=transformer.dtype,
        )
    if options.fuse_qkv:
        with torch.no_grad():
            transformer.fuse_qkv_projections()
    if options.cache is not None:
        transformer.enable_cache(_cache_config(pipe, options.cache))
    if options.compile:
        for block in transformer.transformer_blocks:
            _compile(block)


def _compile(block: nn.Module) -> None:
    """Compile a block's forward; one compilation serves all blocks.

    Hooks on the block stay outside. Those inside would be ignored once the code exists, and whoever
    looks there would see nothing; with hook guards it is compiled anew with them.
    """
    dynamo = import_module("torch._dynamo.config")
    with_hooks = dynamo.patch(skip_nnmodule_hook_guards=False)
    block.forward = with_hooks(torch.compile(block.forward))


def start_afresh(transformer: Any) -> None:
    """Clear what a cache kept of another run."""
    if getattr(transformer, "is_cache_enabled", False):
        transformer._reset_stateful_cache()


def as_multiplied(tensor: Tensor) -> Tensor:
    """A weight's values: of one that torchao quantised, those that it stands for."""
    return tensor.dequantize() if type(tensor).__module__.startswith("torchao.") else tensor


def _cache_config(pipe: Any, name: str) -> Any:
    """The cache's configuration for CogVideoX, as the docstrings of Diffusers' hooks give it."""
    config = getattr(import_module("diffusers"), CACHES[name])

    def timestep() -> Any:
        return pipe._current_timestep

    def attention_weight(_module: nn.Module) -> float:
        return 0.3

    if name == "pab":
        return config(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=timestep,
        )
    if name == "fastercache":
        return config(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 681),
            current_timestep_callback=timestep,
            attention_weight_callback=attention_weight,
            unconditional_batch_skip_range=5,
            unconditional_batch_timestep_skip_range=(-1, 781),
            tensor_format="BFCHW",
        )
    return config(threshold=0.2)
