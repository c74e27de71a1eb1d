"""What every metric's options have in common: checked by type and name, frozen, never guessed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Base of the options records; an unknown key or a value of another type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TileOptions(Options):
    """Options of a metric that locates its worst region.

    tile_px: wanted edge of a tile in pixels. Small tiles find small defects, but there are more of
        them and each averages less: the worst of them says more about noise.
    """

    tile_px: int = Field(default=16, ge=4)
