"""Any CogVideoX checkpoint opened for comparison: every tensor under its canonical name, unread.

Unlike `conversion`, which refuses what it cannot carry over exactly, this reader takes what is
there: a damaged, partial or fine-tuned checkpoint is what an audit is for. What no rule knows keeps
its own name and is marked so. Files are memory-mapped, so opening costs nothing, reading a tensor
costs that tensor, `Stored.prefetch` pays that cost ahead, and `Stored.release` gives its pages back.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from backends.checkpoints.rules import WHOLE, Rule
from backends.checkpoints.scales import Scaled
from backends.checkpoints.tensors import Loader, dtype_name

SourceKind = Literal["diffusers", "sat", "file"]

_PAGE = 4096
# madvise on Linux
_DONT_NEED, _POPULATE_READ = 4, 22


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint.

    `name` is canonical, component first; a name that no rule knows stays, behind its component.
    `regrouped`: cut out of, or joined from, a tensor of another layout. `load` gives the tensor in
    canonical layout; `pages` the mapped memory that it was read from. `scale` names the tensor whose
    factors `load` applies; `raw` then gives the stored eight-bit values without them.
    """

    name: str
    stored_as: str
    dtype: str
    shape: tuple[int, ...]
    load: Loader
    pages: Loader
    regrouped: bool = False
    scale: str | None = None
    raw: Loader | None = None

    def release(self) -> None:
        """Let the system take back the mapped pages; the next `load` reads them again."""
        _advise(self.pages(), _DONT_NEED)

    def prefetch(self) -> None:
        """Read the pages in, so that a `load` that follows finds them. For a thread beside: it holds no
        lock of the interpreter while it waits. Does nothing where the system has no such call."""
        _advise(self.pages(), _POPULATE_READ)


class Table(NamedTuple):
    """A table that SAT stores and Diffusers computes. `expected` is None where the settings that it
    follows from are not at hand; `read` is False for one that no stack uses."""

    stored: Stored
    expected: Loader | None
    read: bool = True


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    `tensors` by canonical name. `components` are those it holds. `configs` are its settings by
    canonical key (`vae.scaling_factor`), with the defaults of the stack filled in; None where it
    has none. `tables` are what SAT stores and Diffusers computes. `files` are the other files of its
    components, by place (`tokenizer/spiece.model`), to be compared as they are. `unread` says what is
    there or should be, and could not be read; `remarks` what else is to be known.
    """

    path: Path
    kind: SourceKind
    tensors: Mapping[str, Stored]
    configs: Mapping[str, Any] | None
    tables: Mapping[str, Table] = field(default_factory=dict[str, Table])
    remarks: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    unread: tuple[str, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components that have tensors here, in alphabetical order."""
        return tuple(sorted({name.partition(".")[0] for name in self.tensors}))


def as_stored(component: str, name: str, load: Loader) -> Stored:
    """The tensor `name` of `component`, which `load` reads in canonical layout."""
    scaled = load if isinstance(load, Scaled) else None
    raw = load.raw if isinstance(load, Scaled) else load
    tensor = raw()
    return Stored(
        name=f"{component}.{name}",
        stored_as=name,
        dtype=dtype_name(tensor),
        shape=tuple(tensor.shape),
        load=load,
        pages=raw,
        scale=scaled and scaled.scale_name,
        raw=scaled and scaled.raw,
    )


def by_rule(component: str, rule: Rule, load: Loader) -> list[Stored]:
    """The canonical tensors of `component` that one SAT tensor, read by `load`, holds by `rule`; itself
    if its rows do not fit."""
    scaled = load if isinstance(load, Scaled) else None
    raw = load.raw if isinstance(load, Scaled) else load
    whole = raw()
    rows, *rest = (*whole.shape, *(() if whole.ndim else (0,)))
    chunks = rule.layout.chunks
    if chunks > 1 and rows % chunks:
        return [as_stored(component, rule.sat, load)]
    found: list[Stored] = []
    for index, name in enumerate(rule.diffusers):
        part, stored = (partial(_part, rule, index, loader) for loader in (load, raw))
        share = len(rule.layout.groups[index])
        copied = share > 1
        found.append(
            Stored(
                name=f"{component}.{name}",
                stored_as=rule.sat,
                dtype=dtype_name(whole),
                shape=(rows * share // chunks, *rest) if whole.ndim else (),
                load=part,
                pages=raw if copied else stored,
                regrouped=rule.layout != WHOLE,
                scale=scaled and scaled.scale_name,
                raw=scaled and stored,
            )
        )
    return found


def _part(rule: Rule, index: int, load: Loader) -> Tensor:
    whole = load()
    chunks, group = rule.layout.chunks, rule.layout.groups[index]
    if chunks == 1:
        return whole
    if len(group) == 1:
        return whole.chunk(chunks)[group[0]]  # a view, where `split` would copy
    return rule.layout.split(whole)[index]


def _advise(tensor: Tensor, advice: int) -> None:
    if sys.platform != "linux" or not tensor.is_contiguous():
        return
    start, size = tensor.data_ptr(), tensor.nbytes
    first, last = -(-start // _PAGE) * _PAGE, (start + size) // _PAGE * _PAGE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)
