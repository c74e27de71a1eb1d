"""The LPIPS network; the only module that imports torch and lpips while scores are computed.

The `lpips` package carries the linear heads. The AlexNet backbone comes from the user's cache.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, cast

import lpips as _lpips  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import torch
from numpy.typing import NDArray

from harness.metrics.frames import DATA_RANGE, Grey
from harness.metrics.lpips_weights import Backbone, BackboneUnavailableError

HEADS_SHA256 = "718a8b40b0d22f96192d34ab93c0db5c7943558ff6c2407f44812dce2f29b5f4"
"""Of the five linear heads of LPIPS-Alex v0.1, one after the other, as float32."""

MINIMUM_SIDE_PX = 31
"""Below this the network's last pooling has nothing left to pool."""

_backbone_lock = Lock()


@lru_cache(maxsize=1)
def pretrained_model(backbone: Backbone) -> torch.nn.Module:
    """LPIPS-Alex with `backbone`. Raises: BackboneUnavailableError, when the heads are not v0.1's."""
    model = _build(seed=0)
    # lpips cuts `features` into slices but keeps the layer numbers: slice2.3.weight is features.3
    with torch.no_grad():
        for name, parameter in cast("Any", model).net.named_parameters():
            tensor = backbone.tensors[f"features.{name.split('.', 1)[1]}"]
            parameter.copy_(torch.from_numpy(tensor))
    return model


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
    _check_heads(model)
    return cast("torch.nn.Module", model.eval().to("cuda" if torch.cuda.is_available() else "cpu"))


def _check_heads(model: Any) -> None:
    digest = hashlib.sha256()
    for head in model.lins:
        (kernel,) = head.parameters()
        digest.update(kernel.detach().numpy().astype("<f4").tobytes())
    if digest.hexdigest() != HEADS_SHA256:
        raise BackboneUnavailableError(
            f"the linear heads of the installed `lpips` are not those of LPIPS-Alex v0.1 (SHA-256"
            f" {digest.hexdigest()[:16]}, expected {HEADS_SHA256[:16]})",
            "pip install --force-reinstall --no-deps lpips",
        )
