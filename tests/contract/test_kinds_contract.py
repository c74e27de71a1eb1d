"""Every kind of pipeline keeps the contract: pictures and clips are encoded, scaled and noised alike."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract_driving import assert_same, case, native, staged
from contract_rows import CLIP, CPU, FURTHER, KINDS, PICTURE, Kind, loaded

from backends.base import Case, Inputs, Pipeline
from backends.errors import InvalidRequest, Unsupported
from backends.noise import NoiseTape, standard_normal

Opened = tuple[Kind, Pipeline]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    pipeline = request.param.row.open()
    yield request.param, pipeline
    pipeline.close()


def _case(kind: Kind, **changes: Any) -> Case:
    settings = {"size": kind.row.size, "sampler": "dpm", "dynamic_guidance": True}
    return case(**(settings | kind.changes | changes))


@pytest.mark.parametrize("kind", FURTHER, ids=str)
def test_every_further_kind_reproduces_its_native_run(kind: Kind) -> None:
    pipeline = kind.row.open()
    _check_stages(kind, pipeline)
    pipeline.close()


def test_stages_reproduce_the_native_run(opened: Opened) -> None:
    _check_stages(*opened)


def _check_stages(kind: Kind, pipeline: Pipeline) -> None:
    what = _case(kind)
    by_loop, by_hand = native(pipeline, what), staged(pipeline, what)
    assert len(by_loop.steps) == what.solver_steps
    assert_same(by_loop, by_hand)
    # The VAE decodes an even number of latents, which 1.5 video-to-video asks for, to four each.
    frames = 16 if what.frames == 13 else what.frames
    assert by_loop.frames.shape == (frames, what.height, what.width, 3)
    run = pipeline.prepare(what, Inputs())
    assert len(run.schedule.timesteps) == what.solver_steps
    for step in by_loop.steps:
        assert step.prediction.velocity.shape == step.result.shape == run.latent_shape
    stages = [draw.stage for draw in by_loop.tape.draws]
    conditioned = what.image is not None or what.video is not None
    assert stages[:2] == (["image", "initial"] if conditioned else ["initial", "step"])


def test_its_own_inputs_handed_back_change_nothing(opened: Opened) -> None:
    kind, pipeline = opened
    what, policies = _case(kind), pipeline.policies()
    run = pipeline.prepare(what, Inputs())
    inputs = Inputs(
        text=run.text,
        negative_text=run.negative_text,
        schedule=run.schedule,
        latent_dtype=policies.latent_dtype,
        image_scale=policies.image_scale,
    )
    assert_same(native(pipeline, what), native(pipeline, what, inputs))


def test_the_shared_latent_dtype_is_imposed(opened: Opened) -> None:
    kind, pipeline = opened
    own = pipeline.policies().latent_dtype
    inputs = Inputs(latent_dtype="bfloat16" if own == "float32" else "float32")
    by_loop = native(pipeline, _case(kind), inputs)
    assert_same(by_loop, staged(pipeline, _case(kind), inputs))


@pytest.mark.parametrize("backend", ["diffusers"])
def test_the_scale_of_a_picture_is_named_shared_and_live(backend: str) -> None:
    """A stack's own scale is 1/0.7 for the 1.5 model in Diffusers; 1.0 is another's."""
    pipeline = loaded(backend).open("micro-1.5-5b-i2v", CPU)
    assert pipeline.policies().image_scale == pytest.approx(1 / 0.7)
    what, encoded = case(32, **PICTURE), dict[float, torch.Tensor]()
    for scale in (1 / 0.7, 1.0):
        tape, run = NoiseTape(0), pipeline.prepare(what, Inputs(image_scale=scale))
        found = run.encode_image(tape)
        assert found is not None
        encoded[scale] = found
        # Padded to whole temporal patches: the picture first, zeros behind.
        assert found.shape == (1, 4, 16, 4, 4)
        assert found[:, 0].any() and not found[:, 1:].any()
    torch.testing.assert_close(encoded[1 / 0.7] * 0.7, encoded[1.0])
    shared, own = (native(pipeline, what, Inputs(image_scale=s)) for s in (1.0, None))
    assert_same(shared, staged(pipeline, what, Inputs(image_scale=1.0)))
    assert not torch.equal(shared.frames, own.frames)
    pipeline.close()


def test_a_clip_starts_from_itself_and_the_tapes_noise() -> None:
    """start = sqrt(a) clip + sqrt(1 - a) noise, with the noise of the tape's first draw."""
    pipeline = loaded("diffusers").open("micro-5b", CPU)
    what = case(32, **CLIP)
    own = pipeline.prepare(what, Inputs())
    table, level = own.schedule, own.schedule.alpha_bar[0]
    clean = replace(table, alpha_bar=[1.0, *table.alpha_bar[1:]])
    clip = pipeline.prepare(what, Inputs(schedule=clean)).initial_latents(NoiseTape(0))
    noise = torch.from_numpy(standard_normal(0, 0, own.latent_shape))
    expected = level**0.5 * clip + (1 - level) ** 0.5 * noise
    torch.testing.assert_close(own.initial_latents(NoiseTape(0)), expected)
    pipeline.close()


def test_what_a_kind_cannot_do_is_refused_with_the_reason() -> None:
    pictures = loaded("diffusers").open("micro-1.5-5b-i2v", CPU)
    learned = loaded("diffusers").open("micro-5b-i2v", CPU)
    newer = loaded("diffusers").open("micro-1.5-5b", CPU)
    clip = {"video": "micro:blue-square-clip.png"}
    for pipeline, changes, error, words in (
        (pictures, {}, InvalidRequest, "needs a picture"),
        (pictures, clip, Unsupported, "gives the transformer no picture"),
        (pictures, {"image": "nowhere.png"}, InvalidRequest, "no such file"),
        (pictures, {"image": "micro:red-circl.png"}, InvalidRequest, "did you mean"),
        (learned, PICTURE | {"frames": 9, "size": 64}, InvalidRequest, "learned positions"),
        (newer, clip, Unsupported, "Use 13 frames"),
        (newer, clip | {"frames": 21}, InvalidRequest, "has 17 frames"),
        (newer, {"size": 192}, InvalidRequest, "ends at 160x160"),
        (newer, PICTURE, InvalidRequest, "takes none"),
    ):
        with pytest.raises(error, match=words):
            pipeline.prepare(case(**({"size": 32} | changes)), Inputs())
    for pipeline in (pictures, learned, newer):
        pipeline.close()


def test_a_picture_must_be_encoded_first() -> None:
    pipeline = loaded("diffusers").open("micro-1.5-5b-i2v", CPU)
    run = pipeline.prepare(case(32, **PICTURE), Inputs())
    with pytest.raises(InvalidRequest, match="encode_image first"):
        run.predict(torch.zeros(run.latent_shape), 0)
    pipeline.close()
