"""Which component a mapping of tensor names belongs to, and single weight files opened as such."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from backends.checkpoints.diffusers.weight_files import read_file
from backends.checkpoints.mapping import known_rules
from backends.checkpoints.one_sided import OneSided, one_sided
from backends.checkpoints.opened.source import Source, Stored, Table, as_stored, by_rule
from backends.checkpoints.sat.checkpoint import TEXT_PREFIX, TRANSFORMER_PREFIX, VAE_PREFIX
from backends.checkpoints.sat.config import TransformerConfig
from backends.checkpoints.scales import apply_scales
from backends.checkpoints.tensors import Loader, held
from backends.errors import CheckpointError

_SAT_PREFIXES = {TRANSFORMER_PREFIX: "transformer", VAE_PREFIX: "vae", TEXT_PREFIX: "text_encoder"}
_WRAPPERS = ("module", "state_dict", "model", "model_state_dict", "ema")
_MARKS = (
    ("transformer", re.compile(r"transformer_blocks\.\d+\.|patch_embed\.|proj_out\.")),
    ("transformer", re.compile(r"transformer\.layers\.\d+\.|mixins\.|time_embed\.\d")),
    ("vae", re.compile(r"(en|de)coder\.(conv_in|conv_out|down|up|mid)")),
    ("text_encoder", re.compile(r"encoder\.block\.\d+\.|shared\.weight")),
)
_TABLES = ("transformer.mixins.pos_embed.", "transformer.transformer.position_embeddings.")
_POSITIONS, _LEARNED = (
    "transformer.mixins.pos_embed.pos_embedding", "transformer.patch_embed.pos_embedding",
)  # fmt: skip
_SAT_TRANSFORMER = tuple(
    f"transformer.{part}."
    for part in ("layers", "final_layernorm", "position_embeddings", "word_embeddings")
)
_ORDERED = ("transformer", "vae", "text_encoder")


def open_file(path: Path) -> Source:
    """One `.safetensors`, `.pt`, `.pth`, `.bin` or `.ckpt` file, of SAT or Diffusers.

    Raises `CheckpointError` for a missing or damaged file, pickled code, or tensors of no component
    of CogVideoX.
    """
    loaders = tensors_of(path)
    groups = split_prefixes(loaders)
    tensors: dict[str, Stored] = {}
    for component, part in groups.items():
        tensors |= canonical(component, part)
    return Source(path, "file", tensors, None, split_tables(tensors, None))


def tensors_of(path: Path) -> dict[str, Loader]:
    """The tensors in one file, unwrapped from what training scripts put around them."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; name a model folder or a weight file")
    content: Mapping[str, Any] = read_file(path)
    for _ in range(2):
        inner = next((content[key] for key in _WRAPPERS if _is_state(content.get(key))), None)
        if inner is None:
            break
        content = cast(Mapping[str, Any], inner)
    loaders: dict[str, Loader] = {
        name: held(value) if isinstance(value, Tensor) else cast(Loader, value)
        for name, value in content.items()
        if isinstance(value, Tensor) or callable(value)
    }
    if not loaders:
        keys = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise CheckpointError(f"{path} holds no tensors, only {keys}; name a weight file")
    return loaders


def split_prefixes(loaders: Mapping[str, Loader]) -> dict[str, dict[str, Loader]]:
    """Tensors by component, prefixes removed: SAT's engine prefixes, Diffusers' component names."""
    groups: dict[str, dict[str, Loader]] = {}
    bare: dict[str, Loader] = {}
    prefixes = {**_SAT_PREFIXES, **{f"{name}.": name for name in _ORDERED}}
    for name, load in loaders.items():
        prefix = next((p for p in prefixes if _carries(name, p)), None)
        if prefix is None:
            bare[name] = load
        else:
            groups.setdefault(prefixes[prefix], {})[name.removeprefix(prefix)] = load
    if bare:
        groups.setdefault(component_of(bare), {}).update(bare)
    return groups


def component_of(names: Mapping[str, object]) -> str:
    """The component whose tensors have such names. Raises `CheckpointError`."""
    counts: dict[str, int] = dict.fromkeys(_ORDERED, 0)
    for name in names:
        for component, mark in _MARKS:
            counts[component] += bool(mark.match(name))
    best = max(counts, key=lambda component: counts[component])
    if not counts[best]:
        raise CheckpointError(
            f"no tensor name belongs to a CogVideoX component: {', '.join(list(names)[:6])};"
            " expected a transformer, a VAE or a T5 encoder of SAT or Diffusers"
        )
    return best


def canonical(component: str, loaders: Mapping[str, Loader]) -> dict[str, Stored]:
    """Tensors of one component under canonical names; names without a rule stay."""
    rules = known_rules(component, loaders)
    found: dict[str, Stored] = {}
    for name, load in apply_scales(loaders).items():
        rule = rules.get(name)
        stored = by_rule(component, rule, load) if rule else [as_stored(component, name, load)]
        found |= {one.name: one for one in stored}
    return found


def split_tables(tensors: dict[str, Stored], config: TransformerConfig | None) -> dict[str, Table]:
    """Take the tables that only SAT stores out of `tensors`, each with what `config` implies.

    Learned positions have the name of SAT's table and are weights: they stay, under Diffusers' name.
    """
    if config is not None and config.learned_positions and _POSITIONS in tensors:
        tensors[_LEARNED] = replace(tensors.pop(_POSITIONS), name=_LEARNED)
    computed: dict[str, OneSided] = {}
    if config is not None:
        computed = {f"transformer.{extra.name}": extra for extra in one_sided(config)}
    found: dict[str, Table] = {}
    for name in [name for name in tensors if name.startswith(_TABLES)]:
        extra = computed.get(name)
        read = extra is None or extra.read
        found[name] = Table(tensors.pop(name), extra.value if extra and read else None, read)
    return found


def _carries(name: str, prefix: str) -> bool:
    # SAT's own names begin with `transformer.` too.
    own = prefix == "transformer." and name.startswith(_SAT_TRANSFORMER)
    return name.startswith(prefix) and not own


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(item, (Tensor, Mapping)) for item in cast(Mapping[str, object], value).values()
    )
