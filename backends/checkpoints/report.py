"""What a conversion did, as records that can be stored and shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Format = Literal["sat", "diffusers"]


@dataclass(frozen=True)
class Notice:
    """Something that was not simply moved: `what` was dropped, rebuilt or chosen, and why."""

    action: Literal["dropped", "rebuilt", "chosen"]
    what: str
    why: str


@dataclass(frozen=True)
class ComponentReport:
    """One component: `dtypes` counts tensors by dtype; `regrouped` had rows cut or joined.

    The digests are over canonical names and tensors, of the source before and of the written
    folder, read back from disk, after. `convert` raises unless they are equal.
    """

    component: str
    tensors: int
    dtypes: dict[str, int]
    renamed: int
    regrouped: int
    digest_before: str
    digest_after: str


@dataclass(frozen=True)
class ConversionReport:
    """A finished conversion of `source` to format `to` at `destination`."""

    source: Path
    destination: Path
    to: Format
    components: tuple[ComponentReport, ...]
    notices: tuple[Notice, ...]
