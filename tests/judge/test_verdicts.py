"""The whole procedure on a few planted faults and harmless changes, in this process."""

from pathlib import Path

import pytest

from tests.selftest.catalogue import faults, healthy
from tests.selftest.measure import CAUGHT, measure

# Eleven whole verdicts are one set-up.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FAULTS = (
    "attention_scale",
    "middle_step_only",
    "guidance_one_percent",
    "schedule_shift_of_5b",
    "decoder_channel_bias",
    "frames_gain",
    "frames_duplicated",
    "frames_flicker",
    "sat_shift_scale_swapped_in_block_4",
)
HARMLESS = (
    "nothing@diffusers-micro-2b-fp32",
    "rotary_float64@diffusers-micro-5b-fp32",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("selftest")
    rows = [row for row in faults() if row.id in FAULTS]
    rows += [row for row in healthy() if row.id in HARMLESS]
    assert len(rows) == len(FAULTS) + len(HARMLESS)
    found = measure(rows, folder / "outcomes.jsonl", folder / "work", gates=False)
    return {outcome.id: outcome for outcome in found}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_and_its_component_named_first(outcomes, fault: str) -> None:
    outcome = outcomes[fault]
    assert outcome.error is None
    assert outcome.verdict in CAUGHT, outcome.detail
    assert outcome.named[0] in outcome.place, outcome.detail
    assert outcome.guided_calls <= 300


@pytest.mark.parametrize("fault", ["attention_scale", "sat_shift_scale_swapped_in_block_4"])
def test_the_block_is_named(outcomes, fault: str) -> None:
    outcome = outcomes[fault]
    assert outcome.blocks[0].startswith(str(outcome.block)), outcome.detail


@pytest.mark.parametrize("row", HARMLESS)
def test_a_harmless_change_is_no_bug(outcomes, row: str) -> None:
    assert outcomes[row].verdict in outcomes[row].expected, outcomes[row].detail
