"""A LoRA on an opened SAT engine, through SAT's own `LoraLinear`.

Sources: `sat/model/finetune/lora2.py`. Query, key and value are three parts of one layer there, each
with matrices of its own. `LoraMixin` gives every layer one rank; `LoraLinear` itself does not need
that, so parts may have other ranks or none. One factor a layer is all it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backends.checkpoints import Lora
from backends.checkpoints.lora.lora import PREFIX, A, B, listed
from backends.checkpoints.mapping import transformer_table
from backends.checkpoints.rules import Rule
from backends.checkpoints.sat.checkpoint import without_initialisation
from backends.checkpoints.sat.config import TransformerConfig
from backends.errors import Unsupported
from backends.sat.stack import lora_layers, unchanged_process
from backends.stages.lora_options import lora_settings, open_fitting

Layers = dict[str, tuple[int, float]]
"""Canonical name of a layer to its rank and factor."""


def attach_lora(
    model: nn.Module, config: TransformerConfig, lora: str, scale: float, mode: str, where: str
) -> Layers | None:
    """Put the LoRA `lora` in force on SAT's transformer `model` of `config`.

    `scale` and `mode` as in `stages.lora_options`; `where` names the model in errors.

    Returns ranks and factors of a fused LoRA, None of a live one, which `read_live` reads. Raises
    `CheckpointError` for a LoRA that does not fit; `Unsupported` for one that `LoraLinear` cannot
    hold live.
    """
    rules = _weight_rules(config)
    shapes = _canonical_shapes(model, rules)
    opened = open_fitting(lora, shapes, where)
    touched = [r for r in rules if any(_layer(n) in opened.modules for n in r.diffusers)]
    if mode == "live":
        _check_live(touched, opened)
        for rule in touched:
            _replace(model, rule, opened, scale)
        return None
    for rule in touched:
        _fuse(model.get_parameter(rule.sat), rule, opened, scale, shapes)
    return {name: (m.rank, m.scaling * scale) for name, m in opened.modules.items()}


def split_lora(
    state: Mapping[str, Tensor], config: TransformerConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A transformer's `state_dict()` as the model's own tensors, under the names that they have
    without LoRA, and the LoRA's under canonical names without component."""
    base: dict[str, Tensor] = {}
    lora: dict[str, Tensor] = {}
    parts = {rule.sat.removesuffix(".weight"): rule.diffusers for rule in _weight_rules(config)}
    for name, tensor in state.items():
        layer, found, place = name.partition(".matrix_")
        if found:
            matrix, part = place.split(".")
            target = parts[layer][int(part)].removesuffix(".weight")
            if tensor.numel():
                lora[f"{target}.lora_{matrix}.weight"] = tensor
        else:
            base[name.replace(".original.", ".")] = tensor
    return base, lora


def read_live(model: nn.Module, config: TransformerConfig) -> Layers:
    """Rank and factor of every live layer as its forward uses them; empty without a live LoRA."""
    found: Layers = {}
    kind = lora_layers().LoraLinear
    for rule in _weight_rules(config):
        layer: Any = model.get_submodule(rule.sat.removesuffix(".weight"))
        if isinstance(layer, kind):
            matrices: Any = layer.matrix_A
            for name, matrix in zip(rule.diffusers, matrices, strict=True):
                if matrix.shape[0]:
                    found[_layer(name)] = (int(matrix.shape[0]), float(layer.scaling))
    return found


def sat_lora_settings(
    model: nn.Module, config: TransformerConfig, fused: Layers | None
) -> dict[str, Any]:
    """The identity's settings of a LoRA in `model` of `config`, `fused` as `attach_lora` returned it;
    empty where none is in force."""
    if fused is not None:
        return lora_settings("fused", fused)
    live = read_live(model, config)
    return lora_settings("live", live) if live else {}


def _weight_rules(config: TransformerConfig) -> list[Rule]:
    return [rule for rule in transformer_table(config).rules if rule.sat.endswith(".weight")]


def _layer(weight: str) -> str:
    return PREFIX + weight.removesuffix(".weight")


def _canonical_shapes(model: nn.Module, rules: list[Rule]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in rules:
        whole = model.get_parameter(rule.sat).shape
        for name, group in zip(rule.diffusers, rule.layout.groups, strict=True):
            rows = whole[0] // rule.layout.chunks * len(group)
            shapes[PREFIX + name] = (rows, *whole[1:])
    return shapes


def _check_live(rules: list[Rule], lora: Lora) -> None:
    for rule in rules:
        if any(len(group) != 1 for group in rule.layout.groups):
            raise Unsupported(
                f"SAT has {listed(rule.diffusers)} in one layer, mixed, which its LoRA layer cannot"
                " adapt; set lora_mode=fused"
            )
        names = [_layer(n) for n in rule.diffusers if _layer(n) in lora.modules]
        if len({lora.modules[n].scaling for n in names}) > 1:
            raise Unsupported(
                f"{listed(names)} have different factors, and SAT's LoRA layer, which holds them"
                " together, has one; set lora_mode=fused"
            )


def _replace(model: nn.Module, rule: Rule, lora: Lora, scale: float) -> None:
    """Swap one linear layer for SAT's `LoraLinear` with the LoRA's matrices."""
    path = rule.sat.removesuffix(".weight")
    parent, _, name = path.rpartition(".")
    layer: Any = model.get_submodule(path)
    modules = [lora.modules.get(_layer(n)) for n in rule.diffusers]
    first = next(m for m in modules if m is not None)
    with unchanged_process(), without_initialisation():
        new: Any = lora_layers().replace_linear_with_lora(layer, len(modules), first.rank)
    for attribute, end in (("matrix_A", A), ("matrix_B", B)):
        like: Any = getattr(new, attribute)
        matrices: list[nn.Parameter] = []
        for part, module, old in zip(rule.diffusers, modules, like, strict=True):
            if module is None:
                # A part without LoRA: rank 0, whose product is zeros.
                empty = old[:0] if end == A else old[:, :0]
                matrices.append(nn.Parameter(empty.detach().clone()))
            else:
                matrices.append(nn.Parameter(lora.tensors[_layer(part) + end].to(old)))
        setattr(new, attribute, type(like)(matrices))
    new.scaling = first.scaling * scale
    new.eval().requires_grad_(False)
    setattr(model.get_submodule(parent), name, new)


@torch.no_grad()
def _fuse(
    weight: nn.Parameter,
    rule: Rule,
    lora: Lora,
    scale: float,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Add the product to a weight: in float32, then rounded, as `merge_linear_lora` does."""
    parts: list[Tensor] = []
    for name in rule.diffusers:
        module = lora.modules.get(_layer(name))
        if module is None:
            parts.append(weight.new_zeros(shapes[PREFIX + name], dtype=torch.float32))
        else:
            # In the layer's dtype first, as a live LoRA is.
            a, b = (lora.tensors[_layer(name) + e].to(weight).float() for e in (A, B))
            parts.append(b @ a * (module.scaling * scale))
    weight.copy_((weight + rule.layout.join(parts)).to(weight.dtype))
