"""Weight files of one Diffusers component: safetensors or torch's own, whole or in shards."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backends.checkpoints.report import Notice
from backends.checkpoints.tensors import LazyTensors, Loader, held
from backends.checkpoints.trust import refuse_old_torch
from backends.errors import CheckpointError

MODEL = ("diffusion_pytorch_model", "diffusion_pytorch_model")
"""File stems of a Diffusers model: of its safetensors, and of its torch files."""
TEXT_ENCODER = ("model", "pytorch_model")
"""File stems of a transformers model."""

SHARD_BYTES = 2 * 1024**3
"""Largest file that is written, unless one tensor alone is larger; bounds the memory of writing."""


def read_weights(folder: Path, stems: tuple[str, str]) -> LazyTensors:
    """The tensors in `folder`, read from disk one by one when they are looked up.

    Takes safetensors if there are any, otherwise torch files without pickled code. Raises
    `CheckpointError` for missing or damaged files, and for files that hold code.
    """
    path = chosen(folder, stems)
    if path is not None:
        read = _torch_file if ".bin" in path.suffixes else _safetensors
        return _sharded(path, read) if path.suffix == ".json" else LazyTensors(read(path))
    there = sorted(p.name for p in folder.glob("*")) if folder.is_dir() else []
    expected = " or ".join(candidate.name for candidate in _candidates(folder, stems))
    raise CheckpointError(
        f"{folder} has no weights: expected {expected}, found"
        f" {', '.join(there) or 'nothing'}. Fetch the whole folder, or name the variant's files so"
    )


def chosen(folder: Path, stems: tuple[str, str]) -> Path | None:
    """The file, or the index of shards, that `read_weights` takes in `folder`; None if none."""
    return next((path for path in _candidates(folder, stems) if path.is_file()), None)


def safetensors_files(folder: Path, stem: str, variant: str | None) -> set[Path]:
    """The safetensors files under `stem` that a loader may take in `folder`: one file, and the shards
    of an index. `variant` names another set of them, such as fp16. Raises `CheckpointError`."""
    mark = f".{variant}" if variant else ""
    found = (folder / f"{stem}{mark}.safetensors", folder / f"{stem}.safetensors.index{mark}.json")
    files = set[Path]().union(*(parts(path) for path in found if path.is_file()))
    return {path for path in files if path.suffix == ".safetensors"}


def parts(path: Path) -> set[Path]:
    """A weight file itself; an index together with the shards that it names."""
    if path.suffix != ".json":
        return {path}
    return {path, *(path.parent / file for file in _weight_map(path).values())}


def _candidates(folder: Path, stems: tuple[str, str]) -> list[Path]:
    return [
        *(folder / f"{stems[0]}.{end}" for end in ("safetensors", "safetensors.index.json")),
        *(folder / f"{stems[1]}.{end}" for end in ("bin", "bin.index.json")),
    ]


def write_weights(folder: Path, tensors: Mapping[str, Tensor], stem: str) -> None:
    """Write `tensors` into `folder` as safetensors called `stem`, beyond `SHARD_BYTES` in shards."""
    shards = list(_shards(tensors))
    if len(shards) == 1:
        _save(folder / f"{stem}.safetensors", tensors, shards[0])
        return
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        total += _save(folder / file, tensors, names)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def copy_weights(source: Path, destination: Path, stems: tuple[str, str]) -> list[Notice]:
    """Copy one component's weights, whose files have `stems`, from the folder `source` to `destination`;
    safetensors to the byte, torch files rewritten as safetensors.

    Returns what was left out: the weights that `read_weights` would not take.
    """
    tensors = read_weights(source, stems)
    whole, index = (
        source / f"{stems[0]}.{end}" for end in ("safetensors", "safetensors.index.json")
    )
    taken: set[str] = set()
    if whole.is_file():
        taken = {whole.name}
    elif index.is_file():
        taken = {index.name, *json.loads(index.read_text())["weight_map"].values()}
    else:
        write_weights(destination, tensors, stems[0])
    for name in sorted(taken):
        shutil.copyfile(source / name, destination / name)
    others = {
        p.name for end in ("safetensors", "bin", "index.json") for p in source.glob(f"*.{end}")
    }
    why = "other weights of the same component" if taken else "rewritten as safetensors"
    return [Notice("dropped", f"{source.name}/{name}", why) for name in sorted(others - taken)]


def read_file(path: Path) -> Mapping[str, Any]:
    """The content of one weight file: loaders of a safetensors file, else what torch stored.

    Raises `CheckpointError` for missing or damaged files, and for files that hold code.
    """
    if path.suffix == ".safetensors":
        return _safetensors(path)
    content = read_torch_file(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected names and tensors")
    return cast(Mapping[str, Any], content)


def plain(tensor: Tensor) -> Tensor:
    """A contiguous CPU tensor that owns exactly its own bytes, as both file formats need it."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def read_torch_file(path: Path) -> Any:
    """The content of a torch file, memory-mapped, running no code. Raises `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; fetch the checkpoint again")
    refuse_old_torch(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled objects other than tensors, which could run code, or is damaged:"
            f" {str(error).strip().splitlines()[0]}. Expected tensors only; save it again as such,"
            " where you trust it"
        ) from error
    except Exception as error:
        # A damaged archive shows as RuntimeError, OSError, EOFError, KeyError, ...
        raise CheckpointError(
            f"{path} cannot be read as a torch file ({type(error).__name__}: {error}); it is"
            " damaged, incomplete or a Git LFS pointer. Fetch it again"
        ) from error


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name in sorted(tensors):
        nbytes = tensors[name].nbytes
        if names and size + nbytes > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += nbytes
    yield names


def _save(path: Path, tensors: Mapping[str, Tensor], names: list[str]) -> int:
    content = {name: plain(tensors[name]) for name in names}
    save_file(content, path, metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in content.values())


def _safetensors(path: Path) -> dict[str, Loader]:
    _refuse_cut(path)
    try:
        file = cast(Any, safe_open)(path, framework="pt", device="cpu")
        names: list[str] = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}); it is damaged, incomplete or a Git"
            " LFS pointer. Fetch it again"
        ) from error
    return {name: _getter(file, name) for name in names}


def _refuse_cut(path: Path) -> None:
    """Raise `CheckpointError` for a file that is not as long as its own header says.

    The format: eight bytes with the header's length, the header as JSON, then the tensors, each
    between two `data_offsets`.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = int.from_bytes(file.read(8), "little") + 8
            header = json.loads(file.read(start - 8)) if start <= size else {}
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
        wanted = start + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return  # no header of this format: the library says what is wrong with it
    if size != wanted and wanted - size < 1 << 48:
        raise CheckpointError(
            f"{path} is damaged: its header describes {wanted} bytes, and the file has {size}"
            f" ({'cut off' if size < wanted else 'more than was written'}). Download it again"
        )


def _getter(file: Any, name: str) -> Loader:
    return lambda: cast(Tensor, file.get_tensor(name))


def _torch_file(path: Path) -> dict[str, Loader]:
    content = read_torch_file(path)
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{path} holds no plain mapping of names to tensors; export it again")
    return {name: held(tensor) for name, tensor in content.items()}


def _sharded(index: Path, read: Any) -> LazyTensors:
    weight_map = _weight_map(index)
    files = {file: read(index.parent / file) for file in sorted(set(weight_map.values()))}
    try:
        return LazyTensors({name: files[file][name] for name, file in weight_map.items()})
    except KeyError as error:
        raise _undescribed(index, error) from error


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _undescribed(index, error) from error
    if odd := next((file for file in found.values() if type(file) is not str), None):
        raise _undescribed(index, TypeError(f"a file called {odd!r}"))
    return found


def _undescribed(index: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{index} does not describe the files beside it ({type(error).__name__}: {error});"
        " fetch the index and its shards again"
    )
