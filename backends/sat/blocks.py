"""The expert blocks: one attention over text and patches, with adaptive layer norms of their own.

SAT calls the mixin's `layer_forward` hook instead of the layer, so a forward hook on
`transformer.layers[i]` would never run. Each block is therefore a parameterless module here, with
the call form of Diffusers' `CogVideoXBlock`: (patches, text, ...) -> (patches, text).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from backends.sat.patches import modulate
from backends.sat.stack import BaseMixin, Hook, layer_norm, non_conflict


class ExpertBlock(nn.Module):
    """One transformer block on patches (B, N, D) and text (B, L, D).

    `emb` (B, time_embed_dim) goes through `modulation` to twelve vectors (B, D): shift, scale,
    gate of attention and of MLP for the patches, then the same six for the text. `layer` is SAT's
    transformer layer; `context` is passed through to its attention and MLP hooks.
    """

    def forward(
        self,
        patches: Tensor,
        text: Tensor,
        emb: Tensor,
        *,
        modulation: nn.Module,
        layer: Any,
        mask: Tensor,
        context: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        length = text.shape[1]
        parts = cast(Tensor, modulation(emb)).chunk(12, dim=1)

        def attend(tokens: Tensor) -> Tensor:
            return layer.attention(tokens, mask, **context)

        def transform(tokens: Tensor) -> Tensor:
            return layer.mlp(tokens, **context)

        for norm, branch, first in (
            (layer.input_layernorm, attend, 0),
            (layer.post_attention_layernorm, transform, 3),
        ):
            shift, scale, gate = parts[first : first + 3]
            text_shift, text_scale, text_gate = parts[first + 6 : first + 9]
            own_text = modulate(norm(text), text_shift, text_scale)
            own_patches = modulate(norm(patches), shift, scale)
            result = branch(torch.cat((own_text, own_patches), dim=1))
            patches = patches + gate.unsqueeze(1) * result[:, length:]
            text = text + text_gate.unsqueeze(1) * result[:, :length]
        return patches, text


class AdaptiveLayers(BaseMixin):
    """Runs SAT's transformer layers as expert blocks and normalises queries and keys per head."""

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        time_embed_dim: int,
        head_size: int,
        qk_norm: bool,
        affine: bool,
    ) -> None:
        super().__init__()
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(time_embed_dim, 12 * hidden_size))
            for _ in range(num_layers)
        )
        self._qk_norm = qk_norm
        if qk_norm:
            self.query_layernorm_list = nn.ModuleList(
                layer_norm(head_size, eps=1e-6, affine=affine) for _ in range(num_layers)
            )
            self.key_layernorm_list = nn.ModuleList(
                layer_norm(head_size, eps=1e-6, affine=affine) for _ in range(num_layers)
            )
        self.blocks = nn.ModuleList(ExpertBlock() for _ in range(num_layers))

    def layer_forward(
        self, hidden_states: Tensor, mask: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """SAT hook: one layer on all tokens (B, L + N, D)."""
        index = int(kwargs["layer_id"])
        length: int = kwargs["text_length"]
        patches, text = self.blocks[index](
            hidden_states[:, length:],
            hidden_states[:, :length],
            kwargs["emb"],
            modulation=self.adaLN_modulations[index],
            layer=self.transformer.layers[index],
            mask=mask,
            context=kwargs,
        )
        return torch.cat((text, patches), dim=1)

    @non_conflict
    def attention_fn(
        self,
        query_layer: Tensor,
        key_layer: Tensor,
        value_layer: Tensor,
        attention_mask: Tensor,
        *args: Any,
        old_impl: Hook,
        **kwargs: Any,
    ) -> Tensor:
        """SAT hook: layer norm of queries and keys, then the attention of the mixins before."""
        if self._qk_norm:
            index = int(kwargs["layer_id"])
            query_layer = self.query_layernorm_list[index](query_layer)
            key_layer = self.key_layernorm_list[index](key_layer)
        return old_impl(query_layer, key_layer, value_layer, attention_mask, *args, **kwargs)
