"""One prepared render on CogVideo's own code: the stages by hand, and its own `engine.sample`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from backends.base import Case, Inputs, Prediction, ScheduleTable, StepObserver
from backends.errors import InvalidRequest
from backends.noise import NoiseTape, expected_step_draws
from backends.sat.case import check_case, check_image_scale, check_text
from backends.sat.discretization import timesteps_of
from backends.sat.tree.codec import decode, encode_picture
from backends.sat.tree.engine import TreeEngine
from backends.sat.tree.sampling import Call, Sampling
from backends.stages.intercept import draws_from

InForce = Callable[[], AbstractContextManager[None]]


class TreeRun:
    """Implements `Run`. Latents are float32; text is in the engine's dtype unless it is shared."""

    def __init__(
        self,
        engine: TreeEngine,
        case: Case,
        inputs: Inputs,
        in_force: InForce,
        lone_first_frame: bool,
    ) -> None:
        check_case(engine, case)
        check_image_scale(engine, inputs.image_scale)
        for name, given in (("text", inputs.text), ("negative_text", inputs.negative_text)):
            if given is not None:
                check_text(engine, name, given)
        if inputs.latent_dtype not in (None, "float32", "bfloat16", "float16"):
            raise InvalidRequest(
                f"shared latent_dtype={inputs.latent_dtype!r}; expected float32, bfloat16 or"
                " float16"
            )
        timesteps_of(case.steps, engine.config.sampler.schedule.num_timesteps)  # raises
        self._engine, self._case, self._inputs = engine, case, inputs
        self._in_force, self._lone_first_frame = in_force, lone_first_frame
        self._shape = engine.config.latent_shape(case.frames, case.height, case.width)
        self._image: Tensor | None = None
        self._kept: Call | None = None
        with in_force():
            self._sampling = Sampling(engine, case, inputs.schedule)

    @property
    def text(self) -> Tensor:
        return self._texts[1]

    @property
    def negative_text(self) -> Tensor:
        return self._texts[0]

    @property
    def schedule(self) -> ScheduleTable:
        return self._sampling.schedule

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        return self._shape

    def encode_image(self, tape: NoiseTape) -> Tensor | None:
        if self._case.image is None:
            return None
        shape = (1, self._shape[2], 1, *self._shape[3:])
        with self._in_force(), draws_from(tape), tape.stage("image", 0, 1, 1, shape):
            first = encode_picture(self._engine, self._case, self._inputs.image_scale)
        padding = first.new_zeros(1, self._shape[1] - 1, *self._shape[2:])
        self._image, self._kept = torch.cat((first, padding), dim=1), None
        return self._image

    def encode_clip(self, tape: NoiseTape) -> Tensor | None:
        return None  # SAT has no video-to-video

    def initial_latents(self, tape: NoiseTape) -> Tensor:
        with self._in_force(), draws_from(tape):
            return self._capture(tape).noise

    def predict(self, latents: Tensor, step: int) -> Prediction:
        call = self._call
        with self._in_force():
            return self._sampling.predict(call, self._own(latents), step)

    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        call, latents, clean = self._call, self._own(latents), prediction.native
        with self._in_force(), draws_from(tape), self._due(tape, step):
            if clean is None:
                clean = self._sampling.clean(self._own(prediction.velocity), latents, step)
            result = self._sampling.step(call, latents, self._own(clean), step)
        return self._rounded(result)

    def decode(self, latents: Tensor) -> Tensor:
        with self._in_force():
            # `engine.sample` ends with this cast.
            return self._frames(self._own(latents).to(self._engine.dtype))

    def render(self, tape: NoiseTape, observe: StepObserver) -> Tensor:
        """`engine.sample` and the decoding of `sample_video.py`; frames (T, H, W, 3)."""
        timesteps = self._sampling.table.timesteps

        def seen(step: int, latents: Tensor, prediction: Prediction, result: Tensor) -> Tensor:
            result = self._rounded(result)
            observe(step, timesteps[step], latents, prediction, result)
            return result

        self.encode_image(tape)
        call = None if self._sampling.table.own else self._call
        with (
            self._in_force(),
            draws_from(tape),
            self._sampling.observed(call, lambda step: self._due(tape, step), seen),
        ):
            return self._frames(self._sample(self._sampling.sampler, tape))

    def _frames(self, latents: Tensor) -> Tensor:
        """The last frames that the case asks for: 1.5 may decode three more, at the start."""
        return decode(self._engine, latents, self._lone_first_frame)[-self._case.frames :]

    def _sample(self, sampler: Any, tape: NoiseTape) -> Tensor:
        """CogVideo's `engine.sample`, with the first draw from the tape.

        `seeded_noise` is a hook of the engine's that sees the initial noise: there the first stage
        of the tape ends, and a shared latent dtype is imposed.
        """
        engine = self._engine.native
        negative, text = ({"crossattn": embedding} for embedding in self._texts)
        further: dict[str, Any] = {}
        if self._image is not None:
            negative["concat"] = text["concat"] = self._image
            if self._engine.config.transformer.ofs_embed_dim is not None:
                # `sample_video.py` passes this number, whatever the video's frame rate.
                further["ofs"] = torch.tensor([2.0], device=self._engine.device)
        with ExitStack() as stack:
            stage = stack.enter_context(ExitStack())

            def seeded_noise(noise: Tensor) -> Tensor:
                stage.close()
                return self._rounded(noise)

            stack.enter_context(patch.object(engine, "sampler", sampler))
            stack.enter_context(patch.object(engine, "seeded_noise", seeded_noise, create=True))
            stage.enter_context(tape.stage("initial", 0, 1, 1, self._shape))
            return engine.sample(text, uc=negative, batch_size=1, shape=self._shape[1:], **further)

    def _capture(self, tape: NoiseTape) -> Call:
        """What `engine.sample` hands to its sampler."""
        calls: list[Call] = []

        def sampler(denoiser: Any, x: Tensor, cond: Any, uc: Any, **further: Any) -> Tensor:
            calls.append(Call(denoiser, x, cond, uc, further))
            return x

        self._sample(sampler, tape)
        return calls[0]

    @property
    def _call(self) -> Call:
        """The call with a noise that nobody uses: the stages are given their latents."""
        if self._case.image is not None and self._image is None:
            raise InvalidRequest(
                "the conditioning image is not encoded yet; call `encode_image` before `predict`"
            )
        if self._kept is None:
            tape = NoiseTape(0)
            with self._in_force(), draws_from(tape):
                self._kept = self._capture(tape)
        return self._kept

    @cached_property
    def _texts(self) -> tuple[Tensor, Tensor]:
        """Unconditional and conditional embedding (1, L, D), encoded only where not shared."""
        negative, text = self._inputs.negative_text, self._inputs.text
        if text is None:
            with self._in_force():
                own_negative, text = self._encode_text()
            negative = own_negative if negative is None else negative
        if negative is None:
            negative = torch.zeros_like(text)
        if text.shape != negative.shape:
            raise InvalidRequest(
                f"the text embedding has shape {tuple(text.shape)} but the unconditional one"
                f" {tuple(negative.shape)}: they come from stacks with different text lengths; share"
                " both or neither in the match"
            )
        device, dtype = self._engine.device, self._engine.dtype
        return negative.to(device, dtype), text.to(device, dtype)

    def _encode_text(self) -> tuple[Tensor, Tensor]:
        """As `sample_video.py` asks for it: the unconditional embedding is forced to zero."""
        conditioner, script = self._engine.native.conditioner, self._engine.code.sample_video
        values = {"prompt": self._case.prompt, "negative_prompt": ""}
        keys = script.get_unique_embedder_keys_from_conditioner(conditioner)
        batch, batch_uc = script.get_batch(keys, values, [1])
        text, negative = conditioner.get_unconditional_conditioning(
            batch, batch_uc=batch_uc, force_uc_zero_embeddings=["txt"]
        )
        return negative["crossattn"], text["crossattn"]

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._engine.device, torch.float32)

    def _rounded(self, latents: Tensor) -> Tensor:
        name = self._inputs.latent_dtype
        return latents if name is None else latents.to(getattr(torch, name)).float()

    @contextmanager
    def _due(self, tape: NoiseTape, index: int) -> Generator[None]:
        table = self._sampling.table
        # A last step that does not end on the clean video (a shared table) draws like any other.
        ends = float(table.next_levels[index]) >= 1
        last = len(table) + int(index == len(table) - 1 and not ends)
        fewest, most = expected_step_draws(self._case.sampler, index, last)
        with tape.stage("step", index, fewest, most, self._shape):
            yield
