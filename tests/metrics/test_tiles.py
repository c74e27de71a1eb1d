"""The tile grid: covers every pixel once, with tiles of nearly one size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.tiles import TileGrid

sizes = st.integers(min_value=1, max_value=200)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, tile_px=st.integers(min_value=4, max_value=64))
def test_tiles_cover_the_frame_with_nearly_equal_sizes(height, width, tile_px):
    grid = TileGrid.covering(height, width, tile_px)
    for edges, size in ((grid.rows, height), (grid.columns, width)):
        lengths = np.diff(edges)
        assert edges[0] == 0
        assert edges[-1] == size
        assert lengths.max() - lengths.min() <= 1
        assert lengths.max() <= max(2 * tile_px, size if len(lengths) == 1 else 0)


@settings(max_examples=30, deadline=None)
@given(height=sizes, width=sizes, seed=st.integers(min_value=0, max_value=9))
def test_means_are_the_means_of_the_pixels(height, width, seed):
    values = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    grid = TileGrid.covering(height, width, 16)
    means = grid.means(values)
    for row in range(means.shape[0]):
        for column in range(means.shape[1]):
            region = grid.region(0, row, column, 0.0)
            pixels = values[region.y : region.y + region.height, region.x : region.x + region.width]
            assert means[row, column] == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(height=sizes, width=sizes, seed=st.integers(min_value=0, max_value=9))
def test_coarse_means_of_a_full_map_are_plain_means(height, width, seed):
    values = np.random.default_rng(seed).random((height, width))
    grid = TileGrid.covering(height, width, 16)
    np.testing.assert_allclose(grid.coarse_means(values), grid.means(values), rtol=1e-9)


def test_coarse_means_find_the_place_in_a_smaller_map():
    coarse = np.zeros((5, 6))
    coarse[4, 1] = 1.0
    tiles = TileGrid.covering(96, 128, 16).coarse_means(coarse)
    row, column = np.unravel_index(np.argmax(tiles), tiles.shape)
    assert (row, column) == (5, 1) or (row, column) == (5, 2)


def test_the_worst_tile_is_a_rectangle_in_pixels():
    grid = TileGrid.covering(40, 60, 16)
    values = np.ones((2, 2, 4))
    values[1, 0, 3] = 0.25
    region = grid.worst(values, higher_is_better=True, first_frame=1)
    assert (region.frame, region.y, region.x) == (2, 0, 45)
    assert (region.height, region.width, region.value) == (20, 15, 0.25)
