"""Pairs that are healthy by construction: one truth, and errors of independent size and direction.

What a pipeline answers is the truth of that question plus an error. The size of a configuration's errors
is drawn once and again for each question, log-normal both times; candidate, reference and members are
drawn alike. Arrays are small, because only norms count.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backends.base import Case, ScheduleTable
from harness.judge.measured import (
    OTHER_MEMBERS,
    TRANSFORMER_MEMBERS,
    Answers,
    LocalData,
    ProbeSettings,
    Side,
)
from harness.records import PipelineRecord

STEPS = (0, 1, 12, 25, 37, 49)
SETTINGS = ProbeSettings((0, 1, 2, 3), (1000, 1001))
SIZE = 512
_LEVELS = [0.01 + 0.019 * k for k in range(50)]
TABLE = ScheduleTable([999 - 20 * k for k in range(50)], _LEVELS, [*_LEVELS[1:], 1.0])
SCALE = 6.0
CASE = Case(
    name="c", model="m", prompt="p", negative_prompt="", frames=9, height=64, width=64, steps=50,
    guidance_scale=SCALE, dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip
PIPELINE = PipelineRecord(
    weights={}, dtypes={}, configs={},
    policies={"unconditional": "encoded", "schedule": "diffusers", "guidance_target": "velocity"},
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Standard deviations of log(error size): between configurations, and between their questions."""

    configuration: float
    question: float


class Pairs:
    """Draws pairs. `full` and `reduced` are the spreads at the two precisions; the candidate's errors
    are `full_factor` and `reduced_factor` times what a healthy one's are."""

    def __init__(
        self, seed: int, full: Spread, reduced: Spread,
        full_factor: float = 1.0, reduced_factor: float = 1.0,
    ) -> None:  # fmt: skip
        self._rng = np.random.default_rng(seed)
        self._full, self._reduced = full, reduced
        self._factors = full_factor, reduced_factor
        self._truth: dict[str, Any] = {}

    def draw(self) -> LocalData:
        """The probes' answers about one pair that runs in bfloat16."""
        self._truth = {}
        of_full, of_reduced = self._factors
        a, b = (
            self._side(1e-6, self._full, members=True),
            self._side(1e-6 * of_full, self._full, members=False),
        )
        a_low, b_low = (
            self._side(4e-3, self._reduced, members=True),
            self._side(4e-3 * of_reduced, self._reduced, members=False),
        )
        return LocalData(CASE, STEPS, SETTINGS, TABLE, Side(a, a_low), Side(b, b_low), None)

    def _side(self, error: float, spread: Spread, members: bool) -> Answers:
        plain = error * self._size(spread.configuration)
        seeds = (*SETTINGS.seeds, *SETTINGS.calibration_seeds)
        found = self._of("", plain, spread, seeds) | self._of("plain.", plain, spread, seeds)
        if members:
            for member in {*TRANSFORMER_MEMBERS, *OTHER_MEMBERS}:
                own = error * self._size(spread.configuration)
                found |= self._of(f"{member}.", own, spread, SETTINGS.calibration_seeds)
        branches = f"s0.{STEPS[0]}.branches"
        found["text_again.0.text"] = found["text.0.text"]
        found["decode.2.frames"] = found["decode.0.frames"]
        found[f"again.{branches}"] = found[branches]
        for seed in SETTINGS.seeds:
            found[f"solve.s{seed}.states"] = self._of_question(f"solve.{seed}", (1, SIZE))
        found["own.initial"] = self._of_question("own.initial", (SIZE,))
        facts = {f"s{s}": {"scales": {str(k): SCALE for k in STEPS}} for s in SETTINGS.seeds}
        return Answers(PIPELINE, found, {**facts, "own": {"schedule": asdict(TABLE)}})

    def _of(self, prefix: str, size: float, spread: Spread, seeds: Any) -> dict[str, Any]:
        names = [f"text.{i}.text" for i in range(3)] + ["own.text", "own.negative_text"]
        names += [f"{kind}.{i}.frames" for kind in ("decode", "crop") for i in range(2)]
        found = {f"{prefix}{n}": self._answer(n, (SIZE,), size, spread) for n in names}
        for seed in seeds:
            for step in STEPS:
                at = f"s{seed}.{step}"
                branches = self._answer(f"{at}.branches", (2, SIZE), size, spread)
                found[f"{prefix}{at}.branches"] = branches
                if prefix:
                    continue
                wide = branches.astype(np.float64)
                found[f"{at}.velocity"] = wide[0] + SCALE * (wide[1] - wide[0])
                found[f"{at}.in"] = self._of_question(f"{at}.in", (SIZE,))
        return found

    def _answer(self, question: str, shape: tuple[int, ...], size: float, spread: Spread) -> Any:
        truth = self._of_question(question, shape)
        return truth + size * self._size(spread.question) * self._rng.standard_normal(shape)

    def _of_question(self, question: str, shape: tuple[int, ...]) -> Any:
        if question not in self._truth:
            self._truth[question] = self._rng.standard_normal(shape)
        return self._truth[question]

    def _size(self, spread: float) -> float:
        return float(np.exp(spread * self._rng.standard_normal()))
