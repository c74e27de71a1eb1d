"""What is kept of a render's steps: a digest and a sketch of each, full tensors of a few."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from backends.base import Prediction, TraceOptions
from backends.checkpoints.tensors import digest
from backends.stages.sketch import sketch_array


def sketch(tensor: torch.Tensor) -> torch.Tensor:
    """Linear sketch (512,) float32 of a tensor of any shape; see `backends.stages.sketch`."""
    return torch.from_numpy(sketch_array(tensor.detach().float().cpu().numpy()))


@dataclass(frozen=True)
class StepRecord:
    """One solver step: digests of its velocity and result, and whether all values are finite."""

    step: int
    timestep: int
    guidance_scale: float
    velocity_digest: str
    latents_digest: str
    velocity_finite: bool
    latents_finite: bool


class TraceRecorder:
    """A `StepObserver` that keeps a render's trace and its final latents."""

    def __init__(self, options: TraceOptions) -> None:
        self._probe_steps = frozenset(options.probe_steps)
        self.steps: list[StepRecord] = []
        self._input_sketches: list[torch.Tensor] = []
        self._velocity_sketches: list[torch.Tensor] = []
        self._latents_sketches: list[torch.Tensor] = []
        self._full: dict[str, torch.Tensor] = {}
        self.final_latents: torch.Tensor | None = None

    def __call__(
        self,
        step: int,
        timestep: int,
        latents: torch.Tensor,
        prediction: Prediction,
        result: torch.Tensor,
    ) -> None:
        velocity = prediction.velocity
        self.steps.append(
            StepRecord(
                step=step,
                timestep=timestep,
                guidance_scale=prediction.guidance_scale,
                velocity_digest=digest(velocity),
                latents_digest=digest(result),
                velocity_finite=bool(torch.isfinite(velocity).all()),
                latents_finite=bool(torch.isfinite(result).all()),
            )
        )
        self._input_sketches.append(sketch(latents))
        self._velocity_sketches.append(sketch(velocity))
        self._latents_sketches.append(sketch(result))
        broken = [not (s.velocity_finite and s.latents_finite) for s in self.steps]
        # Where it first broke, its input tells in which module.
        if step in self._probe_steps or (broken[-1] and not any(broken[:-1])):
            for name, tensor in (("in", latents), ("velocity", velocity), ("out", result)):
                self._full[f"step_{step}.{name}"] = tensor.detach().cpu().contiguous().clone()
        self.final_latents = result

    def save(self, path: Path) -> list[dict[str, Any]]:
        """Write sketches, probe tensors and final latents as safetensors; return the step records."""
        if self.final_latents is None:
            raise ValueError("nothing was observed; the pipeline never reported a step")
        tensors = dict(self._full)
        tensors["input_sketches"] = torch.stack(self._input_sketches)
        tensors["velocity_sketches"] = torch.stack(self._velocity_sketches)
        tensors["latents_sketches"] = torch.stack(self._latents_sketches)
        tensors["final_latents"] = self.final_latents.detach().cpu().contiguous().clone()
        save_file(tensors, str(path))
        return [asdict(record) for record in self.steps]
