"""The adversary's defects that need a past: videos made before in the same process, or a race."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.noise import NoiseTape
from backends.worker.patches import patch
from tests.selftest.faults.noise import AlteredTape, Place, Values
from tests.selftest.faults.offload import at_use
from tests.selftest.faults.planting import altered, become, module, stack


@patch("unseen_state_seed_kept")
def state_seed_kept(pipeline: Pipeline) -> Pipeline:
    """The generator of a process's first video serves every later one from its start."""
    first: list[int] = []

    def change(place: Place, drawn: Values) -> Values:
        if not first:
            first.append(place.seed)
        return place.other(drawn.shape, seed=first[0] - place.seed)

    def tape(inner: NoiseTape) -> NoiseTape:
        return AlteredTape(inner, change)

    return altered(pipeline, tape=tape)


@patch("unseen_state_middle_video")
def state_middle_video(pipeline: Pipeline) -> Pipeline:
    """The second video of three is 2 % darker; those before and after it are right."""
    made = [0]

    def frames(video: Tensor) -> Tensor:
        made[0] += 1
        return video * 0.98 if made[0] % 3 == 2 else video

    return altered(pipeline, frames=frames)


@patch("unseen_state_middle_video_noise")
def state_middle_video_noise(pipeline: Pipeline) -> None:
    """In the second video of three the loop's first latents are 1 % too small."""
    pipe, made = stack(pipeline), [0]
    native = type(pipe).prepare_latents

    def prepare(self: Any, *arguments: Any, **keywords: Any) -> Tensor:
        made[0] += 1
        found = native(self, *arguments, **keywords)
        return found * 0.99 if made[0] % 3 == 2 else found

    become(pipe, prepare_latents=prepare)


@patch("unseen_state_text_cached_by_length")
def state_text_cached_by_length(pipeline: Pipeline) -> None:
    """Embeddings are kept under the prompt's length: another as long gets the first's."""
    pipe = stack(pipeline)
    native = type(pipe)._get_t5_prompt_embeds
    kept: dict[int, Tensor] = {}

    def encode(self: Any, prompt: Any = None, *arguments: Any, **keywords: Any) -> Tensor:
        words = prompt if isinstance(prompt, str) else prompt[0]
        length = len(self.tokenizer(words).input_ids)
        if length not in kept:
            kept[length] = native(self, prompt, *arguments, **keywords)
        return kept[length].clone()

    become(pipe, _get_t5_prompt_embeds=encode)


@patch("unseen_state_guidance_kept")
def state_guidance_kept(pipeline: Pipeline) -> None:
    """Dynamic guidance writes its last scale where the next video reads the one to start from."""
    pipe = stack(pipeline)
    native = type(pipe).__call__
    last: list[float] = []

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if last:
            keywords["guidance_scale"] = last[0]
        found = native(self, *arguments, **keywords)
        last[:] = [float(self.guidance_scale)]
        return found

    become(pipe, __call__=call)


@patch("unseen_offload_output_race")
def offload_output_race(pipeline: Pipeline) -> None:
    """In every fifth call the output projection's last rows have not arrived."""

    def change(value: Tensor) -> Tensor:
        value = value.clone()
        value[len(value) * 7 // 8 :] = 0
        return value

    at_use(module(pipeline, "transformer.proj_out"), change, lambda call: call % 5 == 4)


@patch("unseen_offload_buffer_stale")
def offload_buffer_stale(pipeline: Pipeline) -> None:
    """After a video the position table is not restored with the weights: the next gets a moved one."""
    pipe = stack(pipeline)
    native = type(pipe).__call__
    embed = module(pipeline, "transformer.patch_embed")

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = native(self, *arguments, **keywords)
        with torch.no_grad():
            embed.pos_embedding = embed.pos_embedding.roll(1, dims=1)
        return found

    become(pipe, __call__=call)
