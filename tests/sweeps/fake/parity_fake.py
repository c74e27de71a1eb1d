"""A backend that renders in milliseconds, for tests of sweeps: every value follows from the tape.

The environment says what no render depends on: PARITY_FAKE_DELAY_S is slept at every step, and the
file PARITY_FAKE_LOG gets one line for every opening and every render, whichever process does it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from backends.base import Identity, Inputs, Policies, Prediction, ScheduleTable

SHAPE = (1, 2, 16, 4, 4)


class _Run:
    def __init__(self, case, inputs: Inputs) -> None:
        text = torch.full((1, 4, 8), float(len(case.prompt)))
        self.text = text if inputs.text is None else inputs.text
        self.negative_text = torch.zeros(1, 4, 8)
        levels = [1 - step / case.steps for step in range(case.steps)]
        self.schedule = inputs.schedule or ScheduleTable(
            timesteps=[999 - step for step in range(case.steps)],
            alpha_bar=levels,
            alpha_bar_next=[*levels[1:], 0.0],
        )
        self.latent_shape = SHAPE


class _Pipeline:
    def __init__(self, model: str, options: dict) -> None:
        self._options = options
        self._note(f"open {model} {options.get('flavour', 0)}")

    def _note(self, line: str) -> None:
        if log := os.environ.get("PARITY_FAKE_LOG"):
            with Path(log).open("a") as stream:
                stream.write(f"{os.getppid()} {line}\n")

    def identity(self) -> Identity:
        return Identity({"transformer.a": "0"}, {"transformer": "float32"}, {"steps": "own"})

    def modules(self) -> dict:
        return {}

    def policies(self) -> Policies:
        return Policies("linear", "zeros", "float32", "velocity", 1e-5, "round")

    def prepare(self, case, inputs: Inputs) -> _Run:
        return _Run(case, inputs)

    def render(self, case, inputs: Inputs, tape, observe) -> torch.Tensor:
        run = _Run(case, inputs)
        flavour = float(self._options.get("flavour", 0))
        with tape.stage("initial", 0, 1, 1, SHAPE):
            latents = torch.from_numpy(tape.draw(SHAPE)) + run.text.mean() / 100 + flavour
        for step, timestep in enumerate(run.schedule.timesteps):
            time.sleep(float(os.environ.get("PARITY_FAKE_DELAY_S", "0")))
            velocity = latents * 0.5
            result = latents - 0.1 * velocity
            observe(step, timestep, latents, Prediction(velocity, velocity, 1.0), result)
            latents = result
        self._note(f"render {case.name} {flavour:g} {tape.digest[:8]}")
        colours = latents[0, 0, :3].permute(1, 2, 0).sigmoid()
        return colours.repeat(4, 4, 1).expand(case.frames, -1, -1, -1).contiguous()

    def close(self) -> None: ...


class FakeBackend:
    def check(self, options) -> None: ...

    def open(self, model: str, options) -> _Pipeline:
        return _Pipeline(model, dict(options))
