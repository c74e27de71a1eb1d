"""The catalogue of planted faults and healthy changes, as data.

    >>> from tests.selftest.catalogue import faults
    >>> gain = next(fault for fault in faults() if fault.id == "frames_gain")
    >>> gain.component, gain.plugin
    ('frames', 'tests.selftest.faults.frames')
    >>> gain.overrides[-1]
    'candidates.diffusers.patch=frames_gain'

`build(compose_tree(list(row.overrides), folders))` is the run of a row, with `row.plugin` as its
plugin. The detector must not be tuned to these rows; what they are for is to measure it.
"""

from __future__ import annotations

from functools import cache

from tests.selftest import (
    rows_adversary,
    rows_after,
    rows_conditioning,
    rows_healthy,
    rows_inputs,
    rows_lora,
    rows_machine,
    rows_pairs,
    rows_sat,
    rows_stacks,
    rows_transformer,
    rows_weights,
)
from tests.selftest.row import Fault, Healthy
from tests.selftest.spread import spread


@cache
def faults() -> tuple[Fault, ...]:
    """Every planted fault, pairs excluded, in a stable order."""
    rows = (
        *rows_weights.ROWS,
        *rows_transformer.ROWS,
        *rows_inputs.ROWS,
        *rows_machine.ROWS,
        *rows_sat.ROWS,
        *rows_conditioning.ROWS,
        *rows_lora.ROWS,
        *rows_after.ROWS,
        *rows_adversary.ROWS,
    )
    return spread(rows)


def healthy() -> tuple[Healthy, ...]:
    """Every healthy configuration, in a stable order."""
    return (*rows_healthy.ROWS, *rows_stacks.ROWS)


def pairs() -> tuple[rows_pairs.Pair, ...]:
    """Two faults of different components at once, at least twenty of them."""
    return rows_pairs.make(faults())
