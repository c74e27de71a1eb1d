"""A derived model's transformer before training: its parent's weights, and what the parent lacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.micro.training.kinds import Kind, build_transformer

OFS = 2.0
"""The one value that both code bases give the `ofs` embedding."""


@torch.no_grad()
def grow(kind: Kind, parent: nn.Module) -> nn.Module:
    """A transformer of `kind` that computes nearly what `parent` does before it is trained.

    New picture channels and learned positions start at zero. A temporal patch starts as the mean of
    its frames, its output as copies of theirs. The `ofs` embedding starts at zero for `OFS` only.
    """
    grown = build_transformer(kind)
    state, given = grown.state_dict(), parent.state_dict()
    for name, tensor in state.items():
        source = given.get(name)
        if source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
    _grow_patch(kind, state, given)
    if "patch_embed.pos_embedding" in state:
        state["patch_embed.pos_embedding"].zero_()
    grown.load_state_dict(state)
    if kind.patch_frames is not None and kind.image:
        bias = grown.get_parameter("ofs_embedding.linear_2.bias")
        projected = grown.get_submodule("ofs_proj")(torch.full((1,), OFS))
        bias.sub_(grown.get_submodule("ofs_embedding")(projected)[0])
    return grown


def _grow_patch(kind: Kind, state: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Fill `patch_embed.proj` and `proj_out`, whose shapes follow channels and temporal patch."""
    weight, old = state["patch_embed.proj.weight"], given["patch_embed.proj.weight"]
    frames = kind.patch_frames or 1
    # Columns are ordered (channel, frame, row, column) in both the convolution and the linear layer.
    was_linear = old.ndim == 2
    old = old.reshape(len(old), 16, -1, 2, 2)
    fresh = torch.zeros(len(weight), weight[0].numel() // (4 * frames), frames, 2, 2)
    fresh[:, :16] = old if was_linear else old.expand(-1, -1, frames, -1, -1) / frames
    weight.copy_(fresh.reshape(weight.shape))
    if not was_linear and frames > 1:
        # Rows are ordered (channel, frame, row, column) here as well.
        out = given["proj_out.weight"].reshape(16, 1, 4, -1).expand(-1, frames, -1, -1)
        state["proj_out.weight"].copy_(out.reshape(state["proj_out.weight"].shape))
        bias = given["proj_out.bias"].reshape(16, 1, 4).expand(-1, frames, -1)
        state["proj_out.bias"].copy_(bias.reshape(-1))
