"""The LPIPS network and where its weights come from; the only module that imports torch and lpips.

The `lpips` package carries the linear heads. The AlexNet backbone is torchvision's file: taken from
torch's cache, or fetched once per process, and verified by the hash in its name.
"""

from __future__ import annotations

import hashlib
import tempfile
import urllib.request
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, cast

import lpips as _lpips  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import torch
from numpy.typing import NDArray

from harness.metrics.frames import DATA_RANGE, Grey

URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
SHA256_PREFIX = "7be5be79"
FETCH_TIMEOUT_S = 20.0
MINIMUM_SIDE_PX = 31
"""Below this the network's last pooling has nothing left to pool."""

_backbone_lock = Lock()


class BackboneUnavailableError(RuntimeError):
    """The pretrained backbone is neither cached nor fetchable; `remedy` is the command for it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def backbone_path() -> Path:
    """Where torchvision itself would keep the file, so that either finds what the other fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(URL).name


def fetch_command() -> str:
    """The command that puts the backbone where `backbone_path` looks, to be copied by a person."""
    path = backbone_path()
    return f"mkdir -p {path.parent} && curl -fL -o {path} {URL}"


def pretrained_model() -> torch.nn.Module:
    """LPIPS-Alex with the ImageNet backbone. Raises: BackboneUnavailableError."""
    path = backbone_path()
    if not path.is_file():
        failure = _fetch_once(path)
        if failure is not None:
            raise BackboneUnavailableError(
                f"no pretrained AlexNet at {path}, and {failure}", fetch_command()
            )
    return _load_pretrained(path)


@lru_cache(maxsize=1)
def untrained_model(seed: int) -> torch.nn.Module:
    """LPIPS-Alex with torch's default initialisation from `seed` as backbone; published heads."""
    return _build(seed)


@torch.inference_mode()
def unit_features(model: torch.nn.Module, frame: Grey) -> tuple[torch.Tensor, ...]:
    """One pass of a frame (H, W, 3) through the backbone.

    Five tensors (1, c_l, h_l, w_l), of unit length over the channels.
    """
    net: Any = model
    scaled = frame * np.float32(2.0 / DATA_RANGE) - np.float32(1.0)
    device = next(model.parameters()).device
    image = torch.from_numpy(scaled).permute(2, 0, 1)[None].to(device)
    # one pass at a time, each with all of torch's threads; TF32 would cost three digits on a GPU
    with _backbone_lock, torch.backends.cudnn.flags(allow_tf32=False):
        return tuple(_lpips.normalize_tensor(layer) for layer in net.net(net.scaling_layer(image)))


@torch.inference_mode()
def layer_maps(
    model: torch.nn.Module,
    reference: Sequence[torch.Tensor],
    candidate: Sequence[torch.Tensor],
) -> list[NDArray[np.float32]]:
    """The five weighted distances of two frames' `unit_features`, each (h_l, w_l) at its layer's size.

    The score that the package returns is the sum over layers of each map's mean; the maps
    themselves say where.
    """
    net: Any = model
    return [
        head((a - b) ** 2)[0, 0].cpu().numpy()
        for head, a, b in zip(net.lins, reference, candidate, strict=True)
    ]


def _build(seed: int) -> torch.nn.Module:
    # the caller's random state is not ours to move
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # lpips asks torchvision for the model with an argument that torchvision has renamed
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        model: Any = _lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    return cast("torch.nn.Module", model.eval().to("cuda" if torch.cuda.is_available() else "cpu"))


@lru_cache(maxsize=1)
def _load_pretrained(path: Path) -> torch.nn.Module:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(SHA256_PREFIX):
        raise BackboneUnavailableError(
            f"{path} is damaged: its SHA-256 starts with {digest[:8]}, expected {SHA256_PREFIX}",
            f"rm {path} && {fetch_command()}",
        )
    weights = cast(
        "dict[str, torch.Tensor]", torch.load(path, map_location="cpu", weights_only=True)
    )
    model = _build(seed=0)
    # lpips cuts `features` into slices but keeps the layer numbers: slice2.3.weight is features.3
    with torch.no_grad():
        for name, parameter in cast("Any", model).net.named_parameters():
            parameter.copy_(weights[f"features.{name.split('.', 1)[1]}"])
    return model


@lru_cache(maxsize=1)
def _fetch_once(path: Path) -> str | None:
    """Download the backbone; the reason if that failed, remembered: no network stays no network."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(URL, timeout=FETCH_TIMEOUT_S) as response:
            content: bytes = response.read()
        digest = hashlib.sha256(content).hexdigest()
        if not digest.startswith(SHA256_PREFIX):
            return f"{URL} gave other content (SHA-256 starts with {digest[:8]})"
        # into place in one step: another process may be looking
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
            partial.write(content)
        Path(partial.name).replace(path)
    except OSError as error:
        return f"{URL} cannot be fetched from here ({error})"
    return None
