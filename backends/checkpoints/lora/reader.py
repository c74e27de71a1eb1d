"""One reader for LoRA files of any origin, and the check that makes it a loader.

`read_lora` takes what is there, as an audit needs it. Understood are Diffusers' and PEFT's names
(`lora_A`, `lora_B`), the older `lora_down`, `lora_up` with `alpha` tensors, and SAT's `matrix_A.i`,
`matrix_B.i`. `open_lora` refuses what a stack would not run as it is meant.

Sources: `CogVideoXLoraLoaderMixin` and `PeftAdapterMixin.load_lora_adapter` (keys without the prefix
`transformer.` are ignored there with a log line at most).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from backends.checkpoints.lora.diffusers import UNMAPPED, header_text, peft_settings, stated_module
from backends.checkpoints.lora.lora import (
    HEADER,
    PREFIX,
    WEIGHT_NAME,
    A,
    B,
    Lora,
    LoraModule,
    listed,
)
from backends.checkpoints.lora.sat import canonical_place, find_config, rank_and_alpha, sat_name
from backends.checkpoints.opened.files import tensors_of
from backends.checkpoints.sat.checkpoint import TRANSFORMER_PREFIX, model_states_path
from backends.checkpoints.tensors import LazyTensors, Loader
from backends.errors import BackendError, CheckpointError, Unsupported

_PREFIXES = (PREFIX, "base_model.model.", "diffusion_model.", TRANSFORMER_PREFIX)
_MATRIX = re.compile(r"(?P<layer>.+?)\.lora_?(?P<which>A|B|down|up)(?:\.\w+)?\.weight")
_ALPHA = re.compile(r"(?P<layer>.+)\.(?:lora_)?alpha")
_ENDS = {"A": A, "down": A, "B": B, "up": B}
_ALPHA_END = ".alpha"

_Modules = dict[str, LoraModule]


def read_lora(path: Path) -> Lora | None:
    """The LoRA at `path`, a file or a folder, however odd; None if there is another checkpoint.

    Raises `CheckpointError` for one whose rank by its YAML is not that of its matrices.
    """
    file = lora_file(path) if path.is_file() or is_lora(path) else None
    if file is None:
        return None
    try:
        loaders = tensors_of(file)
    except CheckpointError:
        return None
    return _read(path, file, loaders) if any(map(_placed, loaders)) else None


def open_lora(path: Path) -> Lora:
    """Open the LoRA at `path`, a file or a folder of either format.

    Diffusers: a safetensors file, or a folder with `pytorch_lora_weights.safetensors` or one other.
    SAT: `mp_rank_00_model_states.pt`, or a folder with `latest`. Raises `CheckpointError` naming
    what is missing, damaged, or not a LoRA of a CogVideoX transformer; `Unsupported` for DoRA and
    biases.
    """
    file = lora_file(path)
    if file is None:
        there = sorted(p.name for p in path.iterdir())[:4] if path.is_dir() else []
        found = f"a folder with {', '.join(there) or 'nothing'}" if path.is_dir() else "no folder"
        raise CheckpointError(
            f"no LoRA at {path}: expected {WEIGHT_NAME} or one other safetensors file (Diffusers), or"
            f" `latest` with mp_rank_00_model_states.pt (SAT), found {found}"
        )
    loaders = tensors_of(file)
    lora = _read(path, file, loaders)
    check_names = _check_sat_names if lora.format == "sat" else _check_diffusers_names
    check_names(lora, list(loaders))
    for fault in lora.faults:
        raise fault
    return lora


def is_lora(path: Path) -> bool:
    """Whether `path` looks like a LoRA rather than a whole model; nothing is read."""
    if path.is_file():
        return path.suffix in (".safetensors", ".pt")
    whole = any((path / name).is_file() for name in ("model_index.json", "config.json"))
    return not (whole or (path / "transformer").is_dir()) and lora_file(path) is not None


def lora_file(path: Path) -> Path | None:
    """The file that holds a LoRA where `path` is one or a folder with one; nothing is read.

    Raises `CheckpointError` for a `latest` that cannot be followed.
    """
    if path.is_file() or not path.is_dir():
        return path if path.is_file() else None
    if (path / WEIGHT_NAME).is_file():
        return path / WEIGHT_NAME
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1 and not (path / "config.json").is_file():
        return found[0]
    return model_states_path(path) if (path / "latest").is_file() else None


def _read(path: Path, file: Path, loaders: Mapping[str, Loader]) -> Lora:
    places = {name: place for name in loaders if (place := _placed(name))}
    sat = any(".matrix_" in n for n in loaders) or (file.suffix != ".safetensors" and not places)
    strange = [n for n in loaders if n not in places and not (sat and _is_models_own(n))]
    foreign = [n for n, place in places.items() if n != _own_name(*place, sat)]
    layers: dict[str, dict[str, Loader]] = {}
    for name, (layer, end) in places.items():
        layers.setdefault(layer, {})[end] = loaders[name]
    whole = {layer: part for layer, part in layers.items() if {A, B} <= part.keys()}
    halves = [layer for layer, part in layers.items() if len({A, B} & part.keys()) == 1]
    faults: list[BackendError] = []
    if halves:
        faults.append(CheckpointError(
            f"{file}: {len(halves)} layers have one of the two LoRA matrices only:"
            f" {listed(halves)}; the file is incomplete, save or fetch it again"
        ))  # fmt: skip
    ranks: dict[str, int] = {}
    for layer, part in whole.items():
        a, b = (tuple(part[end]().shape) for end in (A, B))
        if len(a) == len(b) == 2 and a[0] == b[1] != 0:
            ranks[layer] = a[0]
        else:
            said = f"{file}: {layer} has lora_A {a} and lora_B {b}"
            faults.append(CheckpointError(f"{said}; expected (rank, in) and (out, rank)"))
    if sat:
        modules, source, texts = _sat_modules(path, file, ranks)
    else:
        modules, source, texts = _diffusers_modules(file, ranks, faults)
    for layer in modules:
        if load := whole[layer].get(_ALPHA_END):
            modules[layer] = replace(modules[layer], alpha=float(load()), stated=True)
    return Lora(
        path=file,
        format="sat" if sat else "diffusers",
        modules=modules,
        tensors=LazyTensors({m + end: whole[m][end] for m in modules for end in (A, B)}),
        alpha_from=source,
        texts=texts,
        iteration=file.parent.name if sat and file.parent.name.isdigit() else None,
        beside=len(loaders) - len(places) - len(strange),
        strange=tuple(strange),
        foreign=(*strange, *foreign),
        faults=tuple(faults),
    )


def _placed(name: str) -> tuple[str, str] | None:
    """Canonical layer and ending of a key in any known spelling; None for a key of no layer."""
    bare = name.removeprefix(TRANSFORMER_PREFIX)
    if place := canonical_place(bare):
        return place
    if bare == name:
        for prefix in (*_PREFIXES, *_PREFIXES):
            bare = bare.removeprefix(prefix)
    if found := _MATRIX.fullmatch(bare):
        return PREFIX + found["layer"], _ENDS[found["which"]]
    found = _ALPHA.fullmatch(bare)
    return (PREFIX + found["layer"], _ALPHA_END) if found else None


def _own_name(layer: str, end: str, sat: bool) -> str | None:
    """How the format itself spells a tensor; None for one that it does not have."""
    if end == _ALPHA_END:
        return None
    return TRANSFORMER_PREFIX + str(sat_name(layer + end)) if sat else layer + end


def _is_models_own(key: str) -> bool:
    """Whether a key of a SAT checkpoint belongs to the model that the LoRA lies beside."""
    return ".original." in key or not ("matrix_" in key or "lora" in key)


def _diffusers_modules(
    file: Path, ranks: Mapping[str, int], faults: list[BackendError]
) -> tuple[_Modules, str, dict[str, str]]:
    """Modules, where alpha comes from, and the texts; what the header contradicts goes to `faults`."""
    text = header_text(file)
    silent = {name: LoraModule(rank, float(rank), stated=False) for name, rank in ranks.items()}
    if text is None:
        source = "no metadata in the file: Diffusers takes alpha = rank, so the factor is 1"
        return silent, source, {}
    try:
        settings = peft_settings(text, file)
    except CheckpointError as error:
        faults.append(error)
        return silent, f"{HEADER} in the file's header cannot be read", {HEADER: text}
    faults += [
        Unsupported(f"{file} was made with {flag}, which this harness does not map")
        for flag in UNMAPPED
        if settings.get(flag)
    ]
    modules = {name: stated_module(name, settings) for name in ranks}
    for name, rank in ranks.items():
        if modules[name].rank != rank:
            said = f"{file}: its header says rank {modules[name].rank} for {name}, its tensors have"
            why = f" rank {rank}; header and tensors come from different LoRAs"
            faults.append(CheckpointError(said + why))
            modules[name] = replace(modules[name], rank=rank)
    return modules, f"{HEADER} in the file's header", {HEADER: text}


def _sat_modules(
    path: Path, file: Path, ranks: Mapping[str, int]
) -> tuple[_Modules, str, dict[str, str]]:
    """Modules, where alpha comes from, and the texts."""
    config = find_config(path)
    rank, alpha, source = rank_and_alpha(config)
    wrong = {name: found for name, found in ranks.items() if rank is not None and found != rank}
    if wrong:
        raise CheckpointError(
            f"{config} says rank {rank}, but {listed(wrong)} in {file} has rank"
            f" {next(iter(wrong.values()))}; they come from different trainings"
        )
    texts = {} if config is None else {config.name: config.read_text(encoding="utf-8")}
    return {name: LoraModule(r, alpha) for name, r in ranks.items()}, source, texts


def _check_diffusers_names(lora: Lora, names: list[str]) -> None:
    if not lora.foreign:
        return
    unknown, file = lora.foreign, lora.path
    if any("lora_magnitude_vector" in n or "dora_scale" in n for n in unknown):
        raise Unsupported(f"{file} is a DoRA, which Diffusers does not run for CogVideoX")
    if any(n.endswith(".lora_B.bias") for n in unknown):
        raise Unsupported(f"{file} has LoRA biases ({listed(unknown)}), which SAT cannot hold")
    if not any(n.startswith(PREFIX) for n in names) and any(n.endswith((A, B)) for n in names):
        raise CheckpointError(
            f"{file}: none of {len(names)} keys begins with `{PREFIX}`, e.g. {listed(names)}."
            " Diffusers would load nothing and say so in its log only. CogVideo's"
            " export_sat_lora_weight.py writes such files, and without alpha: convert the SAT"
            " checkpoint with `parity convert` instead, or rename the keys"
        )
    raise CheckpointError(
        f"{file}: {len(unknown)} of {len(names)} keys are not LoRA matrices of the transformer:"
        f" {listed(unknown)}; expected `{PREFIX}<layer>{A}` and `{B}`. Remove or rename them"
    )


def _check_sat_names(lora: Lora, names: list[str]) -> None:
    if lora.modules and not lora.foreign:
        return
    strays = lora.foreign
    what = f"{len(strays)} LoRA keys that SAT's attention does not have: {listed(strays)}"
    raise CheckpointError(
        f"{lora.path} holds {what if strays else f'no LoRA among {len(names)} tensors'}; expected"
        f" {TRANSFORMER_PREFIX}transformer.layers.<i>.attention.query_key_value.matrix_A.0 and"
        " the like. A full fine-tune is a model: name it as the case's model"
    )
