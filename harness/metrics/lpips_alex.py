"""LPIPS: how different two frames look to a network that was tuned on human judgments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.metrics.base import Metric, Traits, Unscored
from harness.metrics.frames import FrameSize
from harness.metrics.lpips_weights import BackboneUnavailableError, backbone_in_use
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, Tiles

if TYPE_CHECKING:
    from torch import nn

LPIPS = Traits(
    name="lpips", version=1, unit="1", higher_is_better=False, perfect=0.0, symmetric=True
)
LPIPS_UNTRAINED = Traits(
    name="lpips_alex_untrained",
    version=1,
    unit="1",
    higher_is_better=False,
    perfect=0.0,
    symmetric=True,
)


class UntrainedOptions(TileOptions):
    """seed: of the backbone's random initialisation; another seed is another metric."""

    seed: int = Field(default=0, ge=0)


class LpipsMeter:
    """LPIPS-Alex v0.1, mean over frames: with the pretrained backbone it ranges from 0, rarely to 1.

    Each frame passes through the backbone once, a reference's however many candidates it has.
    `weights` are those of the backbone, as every score names them.
    Source: Zhang et al., CVPR 2018; equals the `lpips` package frame by frame.
    """

    first_frame = 0

    def __init__(
        self, traits: Traits, model: nn.Module, size: FrameSize, options: TileOptions, weights: str
    ) -> None:
        self._traits, self._model, self._options = traits, model, options
        self._weights = weights
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[tuple[float, Tiles]]:
        from harness.metrics import lpips_model  # torch: only when a score is asked for

        wanted = lpips_model.unit_features(self._model, reference.grey())
        found: list[tuple[float, Tiles]] = []
        for candidate in candidates:
            features = lpips_model.unit_features(self._model, candidate.grey())
            layers = lpips_model.layer_maps(self._model, wanted, features)
            value = float(sum(layer.mean(dtype=np.float64) for layer in layers))
            # a tile's distance, as the frame's, is the sum over layers
            tiles = np.sum([self._grid.coarse_means(layer) for layer in layers], axis=0)
            found.append((value, tiles))
        return found

    def tally(self) -> Series:
        return Series(
            self._traits, self._options, self._grid, worst_is_largest=True, weights=self._weights
        )


def start_lpips(size: FrameSize, options: TileOptions) -> LpipsMeter | Unscored:
    """A meter with the pretrained backbone; an untrained network never stands in for it."""
    from harness.metrics import lpips_model

    try:
        backbone = backbone_in_use()
        model = lpips_model.pretrained_model(backbone)
    except BackboneUnavailableError as missing:
        return LPIPS.unscored(missing.reason, missing.remedy)
    return _start(LPIPS, model, size, options, backbone.identity)


def start_untrained(size: FrameSize, options: UntrainedOptions) -> LpipsMeter | Unscored:
    """The same architecture with a random backbone: a multi-scale feature distance, not LPIPS.

    For exercising the code. Its numbers compare with each other, for one seed, and with nothing that
    is published.
    """
    from harness.metrics import lpips_model

    return _start(LPIPS_UNTRAINED, lpips_model.untrained_model(options.seed), size, options, "")


def _start(
    traits: Traits, model: nn.Module, size: FrameSize, options: TileOptions, weights: str
) -> LpipsMeter | Unscored:
    from harness.metrics import lpips_model

    least = lpips_model.MINIMUM_SIDE_PX
    if size.shortest_px < least:
        return traits.unscored(
            f"frames of {size.height_px}x{size.width_px} px are too small for AlexNet",
            f"render at least {least}x{least} px, or drop {traits.name} for this case",
        )
    return LpipsMeter(traits, model, size, options, weights)


METRIC = Metric(LPIPS, TileOptions, start_lpips)
UNTRAINED = Metric(LPIPS_UNTRAINED, UntrainedOptions, start_untrained)
