"""A SAT folder of a CogVideoX model, read and written.

Layout, as CogVideo's sat/README.md describes it: `transformer/latest` names an iteration,
`transformer/<iteration>/mp_rank_00_model_states.pt` holds {"module": tensors}, `vae/3d-vae.pt`
holds {"state_dict": tensors}; a T5 folder and one YAML file lie beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from backends.checkpoints import sidecar
from backends.checkpoints.diffusers.weight_files import (
    TEXT_ENCODER,
    plain,
    read_weights,
)
from backends.checkpoints.mapping import transformer_table, vae_table
from backends.checkpoints.one_sided import one_sided
from backends.checkpoints.report import Notice
from backends.checkpoints.sat.checkpoint import (
    TRANSFORMER_PREFIX,
    model_states_path,
    read_tensors,
    split_components,
    without_loss,
)
from backends.checkpoints.sat.config import ModelConfig
from backends.checkpoints.sat.layout import SatFolder as Paths
from backends.checkpoints.sat.layout import find_parts
from backends.checkpoints.tensors import LazyTensors, digest, dtype_name
from backends.errors import CheckpointError

State = dict[str, Tensor]


@dataclass(frozen=True)
class SatFolder:
    """An opened SAT folder; `components` have canonical names and are computed when looked up."""

    path: Path
    config: ModelConfig
    parts: Paths
    components: Mapping[str, LazyTensors]
    origin: sidecar.SatOrigin
    kept: sidecar.Sidecar
    notices: tuple[Notice, ...]


def open_sat(path: Path) -> SatFolder:
    """Open the SAT model in `path`.

    Raises `CheckpointError` for missing, damaged or unexplained files and tensors, `Unsupported`
    for other kinds of models.
    """
    parts, config = find_parts(path)
    states = model_states_path(parts.transformer)
    transformer, vae_copy, text_copy = split_components(read_tensors(states, "module"), states)
    vae = read_tensors(parts.vae, "state_dict")
    text = read_weights(parts.text, TEXT_ENCODER)
    notices: list[Notice] = []
    tables: dict[str, str] = {}
    for extra in one_sided(config.transformer):
        if extra.name in transformer:
            stored = transformer.pop(extra.name)
            tables[extra.name] = dtype_name(stored)
            notices.append(extra.check(stored, str(states)))
    lost = [name for name in vae if name.startswith("loss")]
    if lost:
        why = "the training loss's networks, which SAT's `ignore_keys` leaves out too"
        notices.append(Notice("dropped", f"{len(lost)} VAE tensors loss.*", why))
    vae = without_loss(vae)
    notices += _compare_copies(vae_copy, vae, states, parts.vae)
    notices += _compare_copies(text_copy, text, states, parts.text)
    known = {"transformer", "vae", parts.text.name, parts.config.name, sidecar.NAME}
    notices += [
        Notice("dropped", entry.name, "not a part of the model")
        for entry in sorted(path.iterdir())
        if entry.name not in known
    ]
    return SatFolder(
        path=path,
        config=config,
        parts=parts,
        components={
            "transformer": transformer_table(config.transformer).to_diffusers(transformer),
            "vae": vae_table(config.vae).to_diffusers(vae),
            "text_encoder": text,
        },
        origin=sidecar.SatOrigin(
            config_name=parts.config.name,
            config_text=parts.config.read_text(encoding="utf-8"),
            iteration=states.parent.name,
            tables=tables,
        ),
        kept=sidecar.read_sidecar(path),
        notices=tuple(notices),
    )


def write_sat(
    path: Path,
    config: ModelConfig,
    components: Mapping[str, Mapping[str, Tensor]],
    origin: sidecar.SatOrigin | None,
) -> list[Notice]:
    """Write transformer and VAE of the model of `config` into the folder `path`, from canonical tensors
    by component in `components`; returns what was rebuilt.

    `origin` is the SAT folder that the model came from, if any: its iteration and tables come back.
    """
    transformer = transformer_table(config.transformer).to_sat(components["transformer"])
    module = {name: plain(tensor) for name, tensor in transformer.items()}
    notices: list[Notice] = []
    for extra in one_sided(config.transformer):
        if origin is None or extra.name in origin.tables:
            dtype = origin.tables[extra.name] if origin else "float32"
            module[extra.name], notice = extra.rebuild(dtype)
            notices.append(notice)
    iteration = origin.iteration if origin else "1"
    _write(
        path / "transformer" / iteration / "mp_rank_00_model_states.pt",
        {"module": {TRANSFORMER_PREFIX + name: tensor for name, tensor in module.items()}},
    )
    (path / "transformer" / "latest").write_text(iteration)
    vae = vae_table(config.vae).to_sat(components["vae"])
    _write(
        path / "vae" / "3d-vae.pt",
        {"state_dict": {name: plain(tensor) for name, tensor in vae.items()}},
    )
    return notices


def _write(path: Path, content: Mapping[str, State]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def _compare_copies(
    copies: State, originals: Mapping[str, Tensor], states: Path, home: Path
) -> list[Notice]:
    """Leave out what a fine-tuned checkpoint holds of a frozen component, if it says nothing new.

    SAT saves the whole engine in the training dtype and loads it over VAE and T5. Rounded copies of
    `originals` are dropped: the original has more precision. Anything else would be another model.
    """
    if not copies:
        return []
    # T5 files hold its embedding once; a state dict holds it under both of its names.
    tied = {"encoder.embed_tokens.weight": "shared.weight"}
    differing = [
        name
        for name, copy in copies.items()
        if (original := name if name in originals else tied.get(name)) not in originals
        or digest(originals[cast(str, original)].to(copy.dtype)) != digest(copy)
    ]
    if differing:
        raise CheckpointError(
            f"{states} also holds {len(copies)} tensors of {home}, and {len(differing)} of them"
            f" differ from it beyond rounding, e.g. {differing[0]}. SAT would run those, a"
            f" converted folder only one of the two: save the tensors that you want to {home} and"
            " remove them there"
        )
    dtypes = ", ".join(sorted({dtype_name(tensor) for tensor in copies.values()}))
    why = f"copies of {home.name} in {dtypes}, equal to it after rounding; the original is used"
    return [Notice("dropped", f"{len(copies)} tensors of {home.name} in {states.name}", why)]
