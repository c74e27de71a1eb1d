"""The pipelines under contract, opened once a module."""

from collections.abc import Iterator

import pytest
from contract_rows import PLACEMENTS, STACKS, Row

from backends.base import Pipeline


@pytest.fixture(scope="module", params=[*STACKS, *PLACEMENTS], ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    """Every backend and placement."""
    return request.param


@pytest.fixture(scope="module")
def pipeline(row: Row) -> Iterator[Pipeline]:
    opened = row.open()
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=STACKS, ids=str)
def stack(request: pytest.FixtureRequest) -> Iterator[tuple[Row, Pipeline]]:
    """One of each stack, for what no placement can change."""
    opened = request.param.open()
    yield request.param, opened
    opened.close()
