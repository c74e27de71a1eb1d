"""Defects in how a LoRA is put in force: its scale, its matrices, which layers it reaches."""

from __future__ import annotations

from typing import Any

import torch

from backends.base import Pipeline
from backends.diffusers.lora import ADAPTER, tuned_layers
from backends.worker.patches import patch
from tests.selftest.faults.planting import module, stack


def _layers(pipeline: Pipeline) -> dict[str, Any]:
    return tuned_layers(module(pipeline, "transformer"))


@patch("lora_scale_by_rank")
def scale_by_rank(pipeline: Pipeline) -> None:
    """Scaled by 1 / rank once more."""
    for layer in _layers(pipeline).values():
        layer.scaling[ADAPTER] /= layer.r[ADAPTER]


@patch("lora_alpha_ignored")
def alpha_ignored(pipeline: Pipeline) -> None:
    """Scaled by 1 instead of alpha / rank."""
    for layer in _layers(pipeline).values():
        layer.scaling[ADAPTER] = 1.0


@patch("lora_not_applied")
def not_applied(pipeline: Pipeline) -> None:
    """Loaded, and then switched off."""
    stack(pipeline).disable_lora()


@patch("lora_transposed")
def transposed(pipeline: Pipeline) -> None:
    """The change of each square projection is transposed: A and B exchange their places."""
    for layer in _layers(pipeline).values():
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        down.data, up.data = up.data.t().contiguous(), down.data.t().contiguous()


@patch("lora_value_stronger")
def value_stronger(pipeline: Pipeline) -> None:
    """The rank of another layer decides the scale of the values: twice too strong."""
    for name, layer in _layers(pipeline).items():
        if name.endswith("to_v"):
            layer.scaling[ADAPTER] *= 2


@patch("lora_layer_lost")
def layer_lost(pipeline: Pipeline) -> None:
    """The keys of one block's output projection did not match, and nobody noticed."""
    layer = _layers(pipeline)["transformer.transformer_blocks.3.attn1.to_out.0"]
    layer.scaling[ADAPTER] = 0.0


@patch("lora_merged_twice")
def merged_twice(pipeline: Pipeline) -> None:
    """In the weights already, and applied live as well."""
    with torch.no_grad():
        for layer in _layers(pipeline).values():
            delta = layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight
            layer.base_layer.weight += layer.scaling[ADAPTER] * delta
