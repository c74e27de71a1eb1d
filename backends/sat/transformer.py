"""CogVideoX's diffusion transformer on SAT's `BaseModel`.

Source: `sat/dit_video_concat.py`, at tag v1.0 for the 1.0 models and on the main branch for 1.5.
"""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, nn

from backends.checkpoints.sat.config import TransformerConfig
from backends.sat.blocks import AdaptiveLayers
from backends.sat.patches import FinalLayer, Grid, Patch, PatchEmbedding
from backends.sat.positions import RotaryPositions, SinCosPositions, SlicedRotaryPositions
from backends.sat.stack import BaseMixin, BaseModel, layer_norm

_OFS = 2.0
"""The "ofs" that 1.5 image-to-video is called with, always (`sat/sample_video.py`)."""


def timestep_embedding(timesteps: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Embed timesteps (B,) as (B, width), computed in float32: cosines first, then sines.

    Frequencies are 10000^(-2k/width), k = 0 .. width/2 - 1; `width` is even.
    """
    half = width // 2
    powers = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    angles = timesteps[:, None].float() * torch.exp(powers).to(timesteps.device)[None]
    return torch.cat((torch.cos(angles), torch.sin(angles)), dim=-1).to(dtype)


def _norm(size: int, *, eps: float, affine: bool) -> nn.LayerNorm:
    """The layer norm of SAT's transformer, which chooses eps itself: `layernorm_epsilon`, 1e-5."""
    return layer_norm(size, eps=eps, affine=affine)


def _sat_args(config: TransformerConfig) -> SimpleNamespace:
    """What SAT's `BaseModel` reads from its argument object."""
    return SimpleNamespace(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        layernorm_epsilon=config.layernorm_epsilon,
        vocab_size=config.vocab_size,
        max_sequence_length=config.max_sequence_length,
        layernorm_order="pre",
        is_decoder=False,
        skip_init=False,
        parallel_output=True,
        model_parallel_size=1,
        checkpoint_activations=False,
    )


def _positions(config: TransformerConfig) -> BaseMixin:
    if config.patch_size_t is not None:
        return SlicedRotaryPositions(config.head_size)
    side = config.patch_size
    grid = Grid(config.table_frames, config.latent_height // side, config.latent_width // side)
    if config.positions == "rotary":
        learned_size = config.hidden_size if config.learned_positions else None
        return RotaryPositions(grid, config.head_size, config.text_length, learned_size)
    return SinCosPositions(grid, config.hidden_size, config.text_length, config.interpolation)


class DiffusionTransformer(BaseModel):
    """Predicts the velocity of noisy latents (B, T, C, H, W), given text (B, L, D) and an image."""

    def __init__(self, config: TransformerConfig, dtype: torch.dtype) -> None:
        super().__init__(
            _sat_args(config),
            params_dtype=dtype,
            activation_func=nn.GELU(approximate="tanh"),
            layernorm=partial(_norm, affine=config.elementwise_affine),
        )
        self._width = config.hidden_size
        self._dtype = dtype
        self._patch = Patch(config.patch_size_t, config.patch_size)
        self.time_embed = _embedding(config.hidden_size, config.time_embed_dim)
        self._ofs_width = config.ofs_embed_dim
        if config.ofs_embed_dim is not None:
            self.ofs_embed = _embedding(config.ofs_embed_dim, config.ofs_embed_dim)
        # The order matters: the query/key norm of `adaln_layer` wraps the rotation of `pos_embed`.
        self.add_mixin("pos_embed", _positions(config), reinit=True)
        self.add_mixin(
            "patch_embed",
            PatchEmbedding(
                config.in_channels, config.hidden_size, self._patch, config.text_hidden_size
            ),
            reinit=True,
        )
        self.add_mixin(
            "adaln_layer",
            AdaptiveLayers(
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                time_embed_dim=config.time_embed_dim,
                head_size=config.head_size,
                qk_norm=config.qk_norm,
                affine=config.elementwise_affine,
            ),
        )
        self.add_mixin(
            "final_layer",
            FinalLayer(
                hidden_size=config.hidden_size,
                time_embed_dim=config.time_embed_dim,
                patch=self._patch,
                out_channels=config.out_channels,
                affine=config.elementwise_affine,
            ),
        )
        self.to(dtype)

    def forward(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Velocity (B, T, C, H, W) in the model's dtype; `timesteps` (B,) are 0 .. 999.

        `image` (1, T, C, H, W), for image-to-video, is what `encode_image` gave; every item of the
        batch gets it, the unconditional ones too.
        """
        images = latents.to(self._dtype)
        grid = self._patch.grid(images.shape[1], images.shape[3], images.shape[4])
        if image is not None:
            beside = image.to(self._dtype).expand(len(images), -1, -1, -1, -1)
            images = torch.cat((images, beside), dim=2)
        emb = self.time_embed(timestep_embedding(timesteps, self._width, self._dtype))
        if self._ofs_width is not None:
            ofs = timesteps.new_full((1,), _OFS)
            emb = emb + self.ofs_embed(timestep_embedding(ofs, self._ofs_width, self._dtype))
        # A (1, 1) mask of ones is SAT's form of full attention; the ids only satisfy its checks.
        ones = torch.ones((1, 1), dtype=self._dtype, device=images.device)
        outputs = super().forward(
            input_ids=ones,
            position_ids=ones,
            attention_mask=ones,
            images=images,
            emb=emb,
            encoder_outputs=text.to(self._dtype),
            text_length=text.shape[1],
            seq_length=grid.size,
            grid=grid,
        )
        return cast(Tensor, outputs[0])


def _embedding(width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))
