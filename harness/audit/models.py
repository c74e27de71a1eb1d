"""What can be known of a model before it is opened: its settings, family, and stored dtype."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from backends.checkpoints import model_settings
from backends.errors import BackendError
from backends.micro import checkpoint_path
from harness.audit.families import Family, by_hub_id, is_full_size, recognise


@dataclass(frozen=True)
class Model:
    """A model as a case names it. `path` is its folder, if it is on this machine; `settings` are
    its canonical ones, empty if they are not at hand; `family` comes from them, or from the name."""

    name: str
    path: Path | None
    settings: Mapping[str, Any]
    family: Family | None

    @property
    def full_size(self) -> bool:
        """Whether it is of a published size, by its settings, or by its name where it has none."""
        return is_full_size(self.settings) if self.settings else self.family is not None


def look_up(name: str) -> Model:
    """The model that a case calls `name`: a micro model, a local folder, or a hub id."""
    path = checkpoint_path(name)
    if not path.is_dir():
        return Model(name, None, {}, by_hub_id(name))
    settings = model_settings(path) or {}
    return Model(name, path, settings, recognise(settings) or by_hub_id(name))


@dataclass(frozen=True)
class Stored:
    """How a transformer is stored: its dtype, and the tensor with the largest value."""

    dtype: str
    largest: float
    tensor: str


@lru_cache(maxsize=8)
def stored_dtype(path: Path) -> str | None:
    """The dtype of most of the transformer's tensors in `path`; None if they cannot be read."""
    from backends.checkpoints import open_source

    try:
        tensors = open_source(path).tensors
    except BackendError:
        return None
    counts = Counter(s.dtype for n, s in tensors.items() if n.startswith("transformer."))
    return counts.most_common(1)[0][0] if counts else None


@lru_cache(maxsize=8)
def stored_range(path: Path) -> Stored | None:
    """The transformer's largest finite absolute value, exact: reads all of its weights once."""
    from backends.checkpoints import open_source
    from backends.checkpoints.relation import sample
    from harness.audit.values import describe

    dtype = stored_dtype(path)
    if dtype is None:
        return None
    worst, name = 0.0, ""
    for stored in open_source(path).tensors.values():
        if not stored.name.startswith("transformer."):
            continue
        tensor = stored.load()
        values = describe(tensor, sample(tensor))
        del tensor
        stored.release()
        largest = max(abs(values.minimum), abs(values.maximum))
        if largest > worst:
            worst, name = largest, stored.name
    return Stored(dtype, worst, name)
