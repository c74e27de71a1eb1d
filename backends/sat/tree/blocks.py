"""CogVideo's transformer blocks as modules, so that a hook can be put on one.

SAT calls the `layer_forward` hook of CogVideo's mixin and never the layer, so there is no module to
hook. From the first time that the blocks are asked for, the call goes through one; what it computes
is CogVideo's own `layer_forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """One block in the call form of Diffusers' `CogVideoXBlock`: (patches, text, emb) -> the two."""

    def forward(
        self, patches: Tensor, text: Tensor, emb: Tensor, *, layer: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        length = text.shape[1]
        tokens = layer(torch.cat((text, patches), dim=1), emb)
        return tokens[:, length:], tokens[:, :length]


def make_blocks(diffusion_model: Any) -> list[nn.Module]:
    """Blocks of a `DiffusionTransformer`, through which it calls its layers from now on."""
    own = diffusion_model.hooks["layer_forward"]
    blocks: list[nn.Module] = [Block() for _ in diffusion_model.transformer.layers]

    def layer_forward(tokens: Tensor, mask: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def layer(joined: Tensor, emb: Tensor) -> Tensor:
            return own(joined, mask, *args, **(kwargs | {"emb": emb}))

        length = int(kwargs["text_length"])
        block = blocks[int(kwargs["layer_id"])]
        patches, text = block(tokens[:, length:], tokens[:, :length], kwargs["emb"], layer=layer)
        return torch.cat((text, patches), dim=1)

    diffusion_model.hooks["layer_forward"] = layer_forward
    return blocks
