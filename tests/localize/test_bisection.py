"""Group testing over settings finds all culprits at little cost; shares sum to the gap."""

import itertools
from pathlib import Path

import pytest

from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.localize.bisection import bisect
from harness.localize.search import culprits, shapley
from harness.workers.connect import in_process

KEYS = [f"k{i:02d}" for i in range(12)]


@pytest.mark.parametrize("pair", list(itertools.combinations(range(12), 2))[::5])
def test_two_culprits_of_twelve_in_at_most_forty_questions(pair: tuple[int, int]) -> None:
    wrong = {KEYS[i] for i in pair}
    asked = []

    def differs(group: frozenset[str]) -> bool:
        asked.append(group)
        return bool(group & wrong)

    assert set(culprits(KEYS, differs)) == wrong
    assert len(asked) <= 40


def test_keys_that_act_together_only_are_found_together() -> None:
    def differs(group: frozenset[str]) -> bool:
        return {"k01", "k09"} <= group

    assert culprits(KEYS, differs) == ["k01", "k09"]


def test_nothing_is_blamed_where_nothing_differs() -> None:
    assert culprits(KEYS, lambda _: False) == []


def test_shares_sum_to_the_gap_and_an_idle_key_has_none() -> None:
    weights = {"a": 3.0, "b": 1.0, "idle": 0.0}

    def value(chosen: frozenset[str]) -> float:
        return sum(weights[k] for k in chosen) ** 2

    found = shapley(list(weights), value)
    assert sum(found.values()) == pytest.approx(16.0)
    assert found["idle"] == 0.0
    assert found["a"] > found["b"] > 0


IDLE = (
    "attention=math", "vae_slicing=true", "allow_tf32=true", "vae_dtype=float32",
    "text_dtype=float32", "patch=harmless_inner_sum_split", "threads=2", "device=cpu", "case.fps=16",
    "case.strength=0.5",
)  # fmt: skip
"""Settings that change nothing in a text-to-video run in float32 on a CPU, or a rounding only."""


def test_two_culprits_of_twelve_real_settings_in_at_most_forty_probes(tmp_path: Path) -> None:
    culprits = ("case.guidance_scale=5.0", "case.sampler=dpm")
    case, candidate = "cases.micro_2b_quick", "candidates.diffusers"
    config = build(
        compose_tree(
            (
                f"store={tmp_path / 'store'}", f"results={tmp_path}", "metrics=[psnr]",
                "case=[micro_2b_quick]", "candidate=[diffusers]", "seeds=[0]",
                f"{case}.height=32", f"{case}.width=32", f"{case}.steps=3", f"{case}.frames=8",
                "reference.name=reference", "reference.threads=1",
                *(f"+{candidate}.{item}" if "case." in item else f"{candidate}.{item}"
                  for item in (*IDLE, *culprits)),
            ),
            conf_folders(None),
        )
    )  # fmt: skip
    found = bisect(config, ["tests.selftest.faults.harmless"], in_process)
    assert len(found.rows) == 12
    assert set(found.culprits) == {"case.guidance_scale", "case.sampler"}
    assert found.probes <= 40
    assert found.neighbour_agrees
    shares = {row.key: row.share for row in found.rows}
    assert sum(share or 0 for share in shares.values()) == pytest.approx(1)
    assert all(shares[key] == 0 for key in shares if key not in found.culprits)
