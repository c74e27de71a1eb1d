"""LPIPS as the `lpips` package computes it, with the weights of the cache put into its own network."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from harness.metrics.lpips_weights import backbone_in_use

PLACES = {"slice1.0": 0, "slice2.3": 3, "slice3.6": 6, "slice4.8": 8, "slice5.10": 10}
"""The package's name of each convolution, and its number in torchvision's `features`."""


def package_network() -> Any:
    """`lpips.LPIPS(net="alex")` with the package's heads and the convolutions of the cache."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package names torchvision's arguments by old names
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = backbone_in_use().tensors
    network.net.load_state_dict(
        {
            f"{place}.{kind}": torch.tensor(weights[f"features.{layer}.{kind}"])
            for place, layer in PLACES.items()
            for kind in ("weight", "bias")
        }
    )
    return network


def lpips_distances(network: Any, reference: Any, candidate: Any) -> list[float]:
    """The package's distance of each frame; uint8 videos (T, H, W, 3)."""
    tensors = [
        torch.from_numpy(video.astype(np.float32) / 127.5 - 1.0).permute(0, 3, 1, 2)
        for video in (reference, candidate)
    ]
    with torch.no_grad():
        return network(*tensors).flatten().tolist()


def by_lpips_package(reference: Any, candidate: Any) -> list[float]:
    return lpips_distances(package_network(), reference, candidate)
