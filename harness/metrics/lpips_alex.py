"""LPIPS: how different two frames look to a network that was tuned on human judgments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.metrics.base import Metric, Score, Traits, Unscored, find_worst_frame
from harness.metrics.frames import FramePair
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid

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


def lpips(pair: FramePair, options: TileOptions) -> Score | Unscored:
    """LPIPS-Alex v0.1 with the pretrained backbone, mean over frames. Range: from 0, rarely to 1.

    Without the backbone's weights it is unscored; an untrained network never stands in for it.
    Source: Zhang et al., CVPR 2018; equals the `lpips` package frame by frame.
    """
    from harness.metrics import lpips_model  # torch: only when a score is asked for

    try:
        model = lpips_model.pretrained_model()
    except lpips_model.BackboneUnavailableError as missing:
        return LPIPS.unscored(missing.reason, missing.remedy)
    return _score(LPIPS, model, pair, options)


def lpips_alex_untrained(pair: FramePair, options: UntrainedOptions) -> Score | Unscored:
    """The same architecture with a random backbone: a multi-scale feature distance, not LPIPS.

    For machines without the weights and for exercising the code. Its numbers compare with each
    other, for one seed, and with nothing that is published.
    """
    from harness.metrics import lpips_model

    return _score(LPIPS_UNTRAINED, lpips_model.untrained_model(options.seed), pair, options)


def _score(
    traits: Traits, model: nn.Module, pair: FramePair, options: TileOptions
) -> Score | Unscored:
    from harness.metrics import lpips_model

    if min(pair.height_px, pair.width_px) < lpips_model.MINIMUM_SIDE_PX:
        least = lpips_model.MINIMUM_SIDE_PX
        return traits.unscored(
            f"frames of {pair.height_px}x{pair.width_px} px are too small for AlexNet",
            f"render at least {least}x{least} px, or drop {traits.name} for this case",
        )
    grid = TileGrid.covering(pair.height_px, pair.width_px, options.tile_px)
    values: list[float] = []
    tiles: list[NDArray[np.float64]] = []
    for reference, candidate in pair:
        layers = lpips_model.layer_maps(model, reference, candidate)
        values.append(float(sum(layer.mean(dtype=np.float64) for layer in layers)))
        # a tile's distance, as the frame's, is the sum over layers
        tiles.append(np.sum([grid.coarse_means(layer) for layer in layers], axis=0))
    return Score(
        spec=traits.spec(options),
        value=float(np.mean(values)),
        per_frame=tuple(values),
        worst_frame=find_worst_frame(values, higher_is_better=False),
        worst_region=grid.worst(np.stack(tiles), higher_is_better=False),
    )


METRIC = Metric(LPIPS, TileOptions, lpips)
UNTRAINED = Metric(LPIPS_UNTRAINED, UntrainedOptions, lpips_alex_untrained)
