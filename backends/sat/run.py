"""One prepared render on SAT: the stages by hand, and the engine's own loop with the tape
injected."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from backends.base import Case, Inputs, Prediction, ScheduleTable, StepObserver
from backends.checkpoints.sat.config import GuidanceConfig
from backends.errors import InvalidRequest
from backends.noise import NoiseTape, expected_step_draws
from backends.sat.case import check_case, check_image_scale, check_text
from backends.sat.denoiser import Denoised
from backends.sat.discretization import own_table, shared_table
from backends.sat.engine import SamplingPlan, SatEngine
from backends.sat.picture import load_picture
from backends.sat.samplers import Draw, make_solver
from backends.stages.intercept import draws_from

InForce = Callable[[], AbstractContextManager[None]]


_GENERATOR = "global"
"""SAT draws with `torch.randn` and `torch.randn_like`, from the process's own generator."""


class _TapeNoise:
    """The tape as the engine's source of noise; draws are float32, as SAT's are."""

    def __init__(self, tape: NoiseTape, plan: SamplingPlan, shape: tuple[int, ...]) -> None:
        self._tape, self._plan, self._shape = tape, plan, shape

    def initial(self, shape: tuple[int, ...]) -> Tensor:
        with self._tape.stage("initial", 0, 1, 1, shape):
            return torch.from_numpy(self._tape.draw(shape, _GENERATOR))

    @contextmanager
    def image(self, shape: tuple[int, ...]) -> Generator[Draw]:
        with self._tape.stage("image", 0, 1, 1, shape):
            yield lambda like: torch.from_numpy(self._tape.draw(like.shape, _GENERATOR)).to(like)

    @contextmanager
    def step(self, index: int) -> Generator[Draw]:
        table = self._plan.table
        # A last step that does not end on the clean video (a shared table) draws like any other.
        last = len(table) + int(index == len(table) - 1 and float(table.next_levels[index]) < 1)
        fewest, most = expected_step_draws(self._plan.sampler, index, last)
        with self._tape.stage("step", index, fewest, most, self._shape):
            yield lambda like: torch.from_numpy(self._tape.draw(like.shape, _GENERATOR)).to(like)


class SatRun:
    """Implements `Run`. Latents are float32; text is in the engine's dtype unless it is shared."""

    def __init__(
        self,
        engine: SatEngine,
        case: Case,
        inputs: Inputs,
        in_force: InForce,
        lone_first_frame: bool,
    ) -> None:
        check_case(engine, case)
        check_image_scale(engine, inputs.image_scale)
        self._engine, self._case, self._inputs = engine, case, inputs
        self._in_force, self._lone_first_frame = in_force, lone_first_frame
        for name, given in (("text", inputs.text), ("negative_text", inputs.negative_text)):
            if given is not None:
                check_text(engine, name, given)
        self._shape = engine.latent_shape(case.frames, case.height, case.width)
        schedule = engine.config.sampler.schedule
        self._table = (
            own_table(schedule, case.steps)
            if inputs.schedule is None
            else shared_table(
                schedule, engine.config.denoiser_schedule, case.steps, inputs.schedule
            )
        ).to(engine.device)
        self._solver = make_solver(case.sampler, self._table)
        self._image: Tensor | None = None

    @property
    def text(self) -> Tensor:
        return self._texts[1:]

    @property
    def negative_text(self) -> Tensor:
        return self._texts[:1]

    @property
    def schedule(self) -> ScheduleTable:
        if self._inputs.schedule is not None:
            return self._inputs.schedule
        return self._table.exported(self._engine.denoiser.levels(self._table))

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        return self._shape

    def encode_image(self, tape: NoiseTape) -> Tensor | None:
        if self._case.image is None:
            return None
        engine, scale = self._engine, self._inputs.image_scale
        kind = engine.config.transformer.patch_size_t
        picture = load_picture(self._case.image, self._case.height, self._case.width, kind)
        own = scale is None or scale == engine.config.image_scale
        with self._in_force(), draws_from(tape):
            self._image = engine.encode_image(
                picture, self._shape, None if own else scale, self._noise(tape)
            )
        return self._image

    def encode_clip(self, tape: NoiseTape) -> Tensor | None:
        return None  # SAT has no video-to-video

    def initial_latents(self, tape: NoiseTape) -> Tensor:
        return self._engine.start(self._plan, self._shape, self._noise(tape))

    def predict(self, latents: Tensor, step: int) -> Prediction:
        with self._in_force():
            return _prediction(self._engine.denoise(self._whole_plan, self._own(latents), step))

    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        latents, clean = self._own(latents), prediction.native
        if clean is None:
            denoiser = self._engine.denoiser
            clean = denoiser.clean(
                self._own(prediction.velocity), latents, denoiser.level(self._table, step)
            )
        with self._in_force(), draws_from(tape), self._noise(tape).step(step) as draw:
            result = self._solver.step(latents, self._own(clean), step, draw)
        return self._engine.rounded(self._plan, result)

    def decode(self, latents: Tensor) -> Tensor:
        with self._in_force():
            return self._frames(self._own(latents))

    def render(self, tape: NoiseTape, observe: StepObserver) -> Tensor:
        """The engine's own loop, then decoding; frames (T, H, W, 3) float32 in [0, 1]."""

        def seen(step: int, latents: Tensor, denoised: Denoised, result: Tensor) -> None:
            observe(step, self._table.timesteps[step], latents, _prediction(denoised), result)

        self.encode_image(tape)
        plan = self._whole_plan
        with self._in_force(), draws_from(tape):
            latents = self._engine.sample(plan, self._shape, self._noise(tape), seen)
            return self._frames(latents)

    def _frames(self, latents: Tensor) -> Tensor:
        """The last frames that the case asks for: 1.5 may decode three more, at the start."""
        return self._engine.decode(latents, self._lone_first_frame)[0, -self._case.frames :].cpu()

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._engine.device, torch.float32)

    def _noise(self, tape: NoiseTape) -> _TapeNoise:
        return _TapeNoise(tape, self._plan, self._shape)

    @cached_property
    def _texts(self) -> Tensor:
        """Both embeddings (2, L, D), unconditional first, encoded only where they are not
        shared. SAT's own unconditional one, zeros, takes the length of a shared conditional one."""
        text, negative = self._inputs.text, self._inputs.negative_text
        if text is None or negative is None:
            with self._in_force():
                own_text, own_negative = self._engine.encode_text(self._case.prompt)
            if text is not None and text.shape != own_negative.shape:
                own_negative = torch.zeros_like(text)
            text = own_text if text is None else text
            negative = own_negative if negative is None else negative
        if text.shape != negative.shape:
            raise InvalidRequest(
                f"the text embedding has shape {tuple(text.shape)} but the unconditional one"
                f" {tuple(negative.shape)}: they come from stacks with different text lengths; share"
                " both or neither in the match"
            )
        device, dtype = self._engine.device, self._engine.dtype
        return torch.cat((negative.to(device, dtype), text.to(device, dtype)))

    @property
    def _whole_plan(self) -> SamplingPlan:
        """The plan with the image's latents. Raises `InvalidRequest` if they are still to be made."""
        if self._case.image is not None and self._image is None:
            raise InvalidRequest(
                "the conditioning image is not encoded yet; call `encode_image` before `predict`"
            )
        return replace(self._plan, image=self._image)

    @cached_property
    def _plan(self) -> SamplingPlan:
        case, name = self._case, self._inputs.latent_dtype
        if name not in (None, "float32", "bfloat16", "float16"):
            raise InvalidRequest(
                f"shared latent_dtype={name!r}; expected float32, bfloat16 or float16"
            )
        own = self._engine.config.sampler.guidance
        return SamplingPlan(
            text=self._texts,
            table=self._table,
            sampler=case.sampler,
            # A user who changes the number of steps changes it for the guider, too.
            guidance=GuidanceConfig(
                case.dynamic_guidance, case.guidance_scale, own.exp, case.steps
            ),
            latent_dtype=None if name is None else getattr(torch, name),
        )


def _prediction(denoised: Denoised) -> Prediction:
    unconditional, conditional = denoised.branches.float().chunk(2)
    return Prediction(
        velocity=unconditional + denoised.scale * (conditional - unconditional),
        branches=denoised.branches,
        guidance_scale=denoised.scale,
        native=denoised.clean,
    )
