"""Conversion between SAT and Diffusers folders, and the tensors of either under canonical names."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from backends.checkpoints.diffusers.config import write_configs
from backends.checkpoints.diffusers.folder import DiffusersFolder, open_diffusers, write_diffusers
from backends.checkpoints.diffusers.text_encoder import (
    merge_text_encoder,
    split_text_encoder,
    tokenizer_class,
)
from backends.checkpoints.lora.conversion import write_lora
from backends.checkpoints.lora.reader import is_lora, open_lora
from backends.checkpoints.mapping import transformer_table, vae_table
from backends.checkpoints.report import ComponentReport, ConversionReport, Format, Notice
from backends.checkpoints.rules import WHOLE
from backends.checkpoints.sat.config import ModelConfig
from backends.checkpoints.sat.document import sat_document, updated_document
from backends.checkpoints.sat.folder import SatFolder, open_sat, write_sat
from backends.checkpoints.sat.yaml_reader import read_config
from backends.checkpoints.sidecar import SatOrigin, Sidecar
from backends.checkpoints.tensors import LazyTensors, dtype_name, state_digest
from backends.errors import CheckpointError, InvalidRequest

_CONFIG_NAME = "cogvideox.yaml"


def canonical_state(source: Path) -> LazyTensors:
    """Every tensor of the model in `source`, SAT or Diffusers, under its canonical name.

    Names are Diffusers' with the component first (`vae.encoder.conv_in.conv.weight`); equal models
    give equal names and bits from either format. Each lookup reads one tensor. Raises
    `CheckpointError` and `Unsupported` as `convert` does.
    """
    return _joined(_open(source).components)


def convert(source: Path, destination: Path, to: Format) -> ConversionReport:
    """Write the model or LoRA in `source` to `destination` in format `to`, every tensor to the bit.

    The folder appears at once and whole: it is written beside `destination`, read back, compared
    with the source by digest, and renamed. Raises `InvalidRequest` if `destination` is not empty or
    `source` already has that format, `CheckpointError` for a source that is missing, damaged, holds
    pickled code or unknown tensors, `Unsupported` for a model that the other stack does not have.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InvalidRequest(f"{destination} is not empty; name a new folder to convert into")
    if is_lora(source):
        return _convert_lora(source, destination, to)
    opened = _open(source)
    came = "sat" if isinstance(opened, SatFolder) else "diffusers"
    if came == to:
        raise InvalidRequest(f"{source} already has format {to!r}; there is nothing to convert")
    with _new_folder(destination) as folder:
        if isinstance(opened, SatFolder):
            notices = _to_diffusers(opened, folder)
        else:
            notices = _to_sat(opened, folder)
        components = _compare(opened, _open(folder))
    return ConversionReport(source, destination, to, components, (*opened.notices, *notices))


def _convert_lora(source: Path, destination: Path, to: Format) -> ConversionReport:
    lora = open_lora(source)
    if lora.format == to:
        raise InvalidRequest(f"{source} already has format {to!r}; there is nothing to convert")
    with _new_folder(destination) as folder:
        component, notices = write_lora(lora, folder, to)
    return ConversionReport(source, destination, to, (component,), tuple(notices))


def _open(source: Path) -> SatFolder | DiffusersFolder:
    if not source.is_dir():
        raise CheckpointError(f"{source} is not a folder; expected a SAT or Diffusers model there")
    if (source / "model_index.json").is_file():
        return open_diffusers(source)
    if (source / "transformer" / "latest").is_file():
        return open_sat(source)
    raise CheckpointError(
        f"{source} is neither a Diffusers pipeline (no model_index.json) nor a SAT model (no"
        " transformer/latest); name the folder that holds the whole model"
    )


def _to_diffusers(source: SatFolder, folder: Path) -> list[Notice]:
    notices = split_text_encoder(source.parts.text, folder / "text_encoder", folder / "tokenizer")
    base = source.kept.diffusers
    texts = write_configs(source.config, base, tokenizer_class(folder / "tokenizer"))
    weights = {name: source.components[name] for name in ("transformer", "vae")}
    write_diffusers(folder, texts, weights)
    Sidecar(sat=source.origin).write(folder)
    notices += _image_scale(source.config)
    if base is None:
        guidance = source.config.sampler.guidance
        notices += [
            Notice(
                "chosen",
                "vae sample_height, sample_width",
                "size that the transformer's latents decode to; SAT does not say it",
            ),
            Notice(
                "dropped",
                "sampler steps and guidance",
                "arguments of a call in Diffusers, not of the model:"
                f" {source.config.sampler.num_steps} steps, guidance {guidance.scale:g}, dynamic:"
                f" {guidance.dynamic}",
            ),
        ]
    return notices


def _to_sat(source: DiffusersFolder, folder: Path) -> list[Notice]:
    kept = source.kept.sat
    notices: list[Notice] = []
    if kept is None:
        config = source.config
        text = sat_document(config, dtype_name(source.components["transformer"]["proj_out.weight"]))
        (folder / _CONFIG_NAME).write_text(text, encoding="utf-8")
        notices.append(
            Notice(
                "chosen",
                "sampler steps and guidance",
                "CogVideo's published 50 steps, dynamic guidance 6; a Diffusers folder has none",
            )
        )
    else:
        config, more = _restore(kept, source.config, folder)
        notices += more
    notices += merge_text_encoder(
        source.path / "text_encoder",
        source.path / "tokenizer",
        folder / Path(config.text.model_dir).name,
    )
    notices += write_sat(folder, config, source.components, kept)
    Sidecar(diffusers=source.config_texts).write(folder)
    return [*notices, *_image_scale(source.config)]


def _image_scale(config: ModelConfig) -> list[Notice]:
    """What neither format can say of 1.5 image-to-video, though both code bases act on it."""
    scale = config.image_scale
    if scale is None or config.transformer.patch_size_t is None:
        return []
    why = (
        f"fixed by code: SAT multiplies the image's latents by {scale:g}, Diffusers by"
        f" {1 / config.scale_factor:.6g} (its `invert_scale_latents`); no configuration makes them"
        " equal, so share the factor `image` when you compare"
    )
    return [Notice("dropped", "scale of the conditioning image", why)]


def _restore(
    kept: SatOrigin, stated: ModelConfig, folder: Path
) -> tuple[ModelConfig, list[Notice]]:
    """Write the kept YAML, changed where the Diffusers folder says something else by now."""
    path = folder / kept.config_name
    path.write_text(kept.config_text, encoding="utf-8")
    before = read_config(path)
    config = replace(
        stated,
        transformer=replace(
            stated.transformer,
            vocab_size=before.transformer.vocab_size,
            max_sequence_length=before.transformer.max_sequence_length,
        ),
        text=replace(stated.text, model_dir=before.text.model_dir),
        sampler=replace(
            stated.sampler,
            num_steps=before.sampler.num_steps,
            guidance=before.sampler.guidance,
        ),
    )
    if config == before:
        return config, []
    path.write_text(updated_document(kept.config_text, config), encoding="utf-8")
    why = "the Diffusers configuration was changed after it came from SAT, and wins"
    return config, [Notice("chosen", f"model section of {kept.config_name}", why)]


def _compare(
    before: SatFolder | DiffusersFolder, after: SatFolder | DiffusersFolder
) -> tuple[ComponentReport, ...]:
    reports = [
        _component(name, tensors, after.components[name], before.config)
        for name, tensors in before.components.items()
    ]
    bad = [report.component for report in reports if report.digest_before != report.digest_after]
    if bad:
        raise CheckpointError(
            f"{', '.join(bad)} read back from the new folder differs from the source; nothing was"
            " kept. The disk may be full or failing; try another one"
        )
    return tuple(reports)


def _component(
    name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: ModelConfig
) -> ComponentReport:
    tables = {"transformer": transformer_table(config.transformer), "vae": vae_table(config.vae)}
    rules = tables[name].rules if name in tables else ()
    return ComponentReport(
        component=name,
        tensors=len(before),
        dtypes=dict(Counter(dtype_name(tensor) for tensor in before.values())),
        renamed=sum(name != rule.sat for rule in rules for name in rule.diffusers),
        regrouped=sum(len(rule.diffusers) for rule in rules if rule.layout != WHOLE),
        digest_before=state_digest(before),
        digest_after=state_digest(after),
    )


def _joined(components: Mapping[str, LazyTensors]) -> LazyTensors:
    return LazyTensors(
        {
            name: part.loader(name)
            for component, tensors in components.items()
            for part in (tensors.prefixed(f"{component}."),)
            for name in part
        }
    )


@contextmanager
def _new_folder(destination: Path) -> Generator[Path, None, None]:
    """A folder that becomes `destination` on success and vanishes on failure."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = destination.parent / f".{destination.name}.{os.getpid()}.partial"
    folder.mkdir()
    try:
        yield folder
        folder.replace(destination)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
