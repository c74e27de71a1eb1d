"""Defects in where a token is: the rotary embedding (5B) and the sin-cos table (2B) of Diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.attention import Processor, install, unrotated
from tests.selftest.faults.planting import become, module, stack

Tables = tuple[Tensor, Tensor]
"""Cosines and sines (tokens, head size) of the video tokens, in time, height, width order."""


def _rotary(pipeline: Pipeline, change: Callable[[Tables, int], Tables]) -> None:
    """Let `change(tables, latent frames)` replace the rotary tables."""
    pipe = stack(pipeline)
    native: Callable[..., Tables] = type(pipe)._prepare_rotary_positional_embeddings

    def prepare(self: Any, height: int, width: int, num_frames: int, device: Any) -> Tables:
        return change(native(self, height, width, num_frames, device), num_frames)

    become(pipe, _prepare_rotary_positional_embeddings=prepare)


def _recomputed(pipeline: Pipeline, **changes: Any) -> None:
    """Compute the rotary tables with other arguments than the pipeline gives."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    def change(tables: Tables, frames: int) -> Tables:
        config = stack(pipeline).transformer.config
        rows = config.sample_height // config.patch_size
        columns = config.sample_width // config.patch_size
        usual: dict[str, Any] = {
            "embed_dim": config.attention_head_dim,
            "crops_coords": ((0, 0), (rows, columns)),
            "grid_size": (rows, columns),
            "temporal_size": frames,
        }
        cos, sin = get_3d_rotary_pos_embed(**(usual | changes))
        return cos.to(tables[0]), sin.to(tables[1])

    _rotary(pipeline, change)


def _grid(table: Tensor, frames: int) -> Tensor:
    """(tokens, d) -> (frames, rows, columns, d) of a square picture."""
    edge = round((table.shape[0] // frames) ** 0.5)
    return table.view(frames, edge, edge, -1)


def _each(change: Callable[[Tensor, int], Tensor]) -> Callable[[Tables, int], Tables]:
    return lambda tables, frames: (change(tables[0], frames), change(tables[1], frames))


@patch("rope_off")
def off(pipeline: Pipeline) -> None:
    """Rotary embedding turned off in the config."""
    stack(pipeline).transformer.register_to_config(use_rotary_positional_embeddings=False)


@patch("rope_base_size")
def base_size(pipeline: Pipeline) -> None:
    """The picture's base size is that of 480x720 whatever the config says."""
    from diffusers.pipelines.cogvideo import pipeline_cogvideox

    region: Any = pipeline_cogvideox.get_resize_crop_region_for_grid
    _recomputed(pipeline, crops_coords=region((4, 4), 720 // 16, 480 // 16))


@patch("rope_theta")
def theta(pipeline: Pipeline) -> None:
    """Base wavelength 1000 in place of 10000."""
    _recomputed(pipeline, theta=1000)


@patch("rope_double_time")
def double_time(pipeline: Pipeline) -> None:
    """Time positions twice as far apart, as when temporal patches are not counted."""

    def change(tables: Tables, frames: int) -> Tables:
        cos, sin = tables
        return 2 * cos**2 - 1, 2 * sin * cos  # the double angle

    def time_only(tables: Tables, frames: int) -> Tables:
        twice, part = change(tables, frames), tables[0].shape[1] // 4
        cos, sin = (
            torch.cat((new[:, :part], old[:, part:]), dim=1)
            for new, old in zip(twice, tables, strict=True)
        )
        return cos, sin

    _rotary(pipeline, time_only)


@patch("rope_half_split")
def half_split(pipeline: Pipeline) -> None:
    """Channels are paired half and half where neighbours belong together."""

    def rotate(x: Tensor, rotary: Tables) -> Tensor:
        cos, sin = (table[None, None] for table in rotary)
        first, second = x.chunk(2, dim=-1)
        return (x.float() * cos + torch.cat((-second, first), -1).float() * sin).to(x.dtype)

    install(pipeline, Processor(rotate_query=rotate, rotate_key=rotate))


@patch("rope_shifted")
def shifted(pipeline: Pipeline) -> None:
    """Every token has the position of the one before: the text counted one token too long."""
    _rotary(pipeline, _each(lambda table, _: table.roll(1, dims=0)))


@patch("rope_axes_swapped")
def axes_swapped(pipeline: Pipeline) -> None:
    """Tables in width, height order for tokens in height, width order."""
    _rotary(
        pipeline,
        _each(lambda table, frames: _grid(table, frames).transpose(1, 2).reshape(table.shape)),
    )


@patch("rope_bf16_tables")
def bf16_tables(pipeline: Pipeline) -> None:
    """Angles computed in bfloat16 under autocast."""
    _rotary(pipeline, _each(lambda table, _: table.bfloat16().to(table.dtype)))


@patch("rope_sine_negated")
def sine_negated(pipeline: Pipeline) -> None:
    """Rotation in the other sense."""
    _rotary(pipeline, lambda tables, _: (tables[0], -tables[1]))


@patch("rope_key_unrotated")
def key_unrotated(pipeline: Pipeline) -> None:
    """Only the queries are rotated."""
    install(pipeline, Processor(rotate_key=unrotated))


@patch("rope_value_rotated")
def value_rotated(pipeline: Pipeline) -> None:
    """The values are rotated too (SAT's `rot_v`)."""
    rotate = Processor().rotate_query
    install(pipeline, Processor(rotate_value=rotate))


@patch("rope_missing_in_block_3")
def missing_in_block_3(pipeline: Pipeline) -> None:
    """One block does not rotate."""
    install(pipeline, Processor(rotate_query=unrotated, rotate_key=unrotated), [3])


@patch("rope_last_frame_late")
def last_frame_late(pipeline: Pipeline) -> None:
    """The last latent frame has the position of the one before."""

    def change(table: Tensor, frames: int) -> Tensor:
        grid = _grid(table, frames).clone()
        grid[-1] = grid[-2]
        return grid.reshape(table.shape)

    _rotary(pipeline, _each(change))


@patch("rope_parts_swapped")
def parts_swapped(pipeline: Pipeline) -> None:
    """The channels of height and width exchanged, those of time in place."""

    def change(table: Tensor, _: int) -> Tensor:
        time, part = table.shape[1] // 4, table.shape[1] // 8 * 3
        height, width = table[:, time : time + part], table[:, time + part :]
        return torch.cat((table[:, :time], width, height), dim=1)

    _rotary(pipeline, _each(change))


def _table(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the sin-cos table (1, text + video tokens, D), kept or computed."""
    embed = module(pipeline, "transformer.patch_embed")
    native: Callable[..., Tensor] = type(embed)._get_positional_embeddings

    def computed(self: Any, *arguments: Any, **keywords: Any) -> Tensor:
        return change(native(self, *arguments, **keywords))

    become(embed, _get_positional_embeddings=computed)
    embed.pos_embedding = change(embed.pos_embedding)


def _video_part(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply `change` to the video tokens, as (frames, rows, columns, D)."""
    text, edge = 24, 4

    def act(table: Tensor) -> Tensor:
        grid = table[0, text:].view(-1, edge, edge, table.shape[-1])
        video = change(grid).reshape(1, -1, table.shape[-1])
        return torch.cat((table[:, :text], video), dim=1)

    return act


@patch("table_missing")
def table_missing(pipeline: Pipeline) -> None:
    """The position table is zero: forwarded as None."""
    _table(pipeline, torch.zeros_like)


@patch("table_interpolation")
def table_interpolation(pipeline: Pipeline) -> None:
    """Built with spatial interpolation 1.0 in place of the config's 1.875."""
    embed = module(pipeline, "transformer.patch_embed")
    embed.spatial_interpolation_scale = 1.0
    embed.pos_embedding = embed._get_positional_embeddings(
        embed.sample_height, embed.sample_width, embed.sample_frames
    )


@patch("table_time_interpolation")
def table_time_interpolation(pipeline: Pipeline) -> None:
    """Built with temporal interpolation 2.0 in place of the config's 1.0."""
    embed = module(pipeline, "transformer.patch_embed")
    embed.temporal_interpolation_scale = 2.0
    embed.pos_embedding = embed._get_positional_embeddings(
        embed.sample_height, embed.sample_width, embed.sample_frames
    )


@patch("table_shifted")
def table_shifted(pipeline: Pipeline) -> None:
    """Every token has the embedding of the one before: the text counted one token too long."""
    _table(pipeline, lambda table: table.roll(1, dims=1))


@patch("table_axes_swapped")
def table_axes_swapped(pipeline: Pipeline) -> None:
    """Rows and columns exchanged."""
    _table(pipeline, _video_part(lambda grid: grid.transpose(1, 2)))


@patch("table_cosine_first")
def table_cosine_first(pipeline: Pipeline) -> None:
    """Cosines before sines in the time channels."""

    def change(grid: Tensor) -> Tensor:
        half = grid.shape[-1] // 8
        return torch.cat(
            (grid[..., half : 2 * half], grid[..., :half], grid[..., 2 * half :]), dim=-1
        )

    _table(pipeline, _video_part(change))


@patch("table_frame_late")
def table_frame_late(pipeline: Pipeline) -> None:
    """The second latent frame has the embedding of the first."""
    _table(pipeline, _video_part(lambda grid: torch.cat((grid[:1], grid[:1], grid[2:]))))


@patch("table_bf16")
def table_bf16(pipeline: Pipeline) -> None:
    """The table was saved in bfloat16 and is used in float32."""
    _table(pipeline, lambda table: table.bfloat16().to(table.dtype))
