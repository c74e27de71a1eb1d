"""The `sat` backend keeps its promises on every kind: stages equal the native run, to the bit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import KINDS

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from contract_driving import Driven, assert_same, native

from backends.base import Inputs
from backends.errors import InvalidRequest, Unsupported
from backends.noise import NoiseTape
from backends.sat.picture import load_picture


def by_stages(pipeline: Any, what: Any, inputs: Inputs | None = None) -> Driven:
    """The render stage by stage, with the picture's stage first."""
    driven = Driven(NoiseTape(0))
    run = pipeline.prepare(what, inputs or Inputs())
    image = run.encode_image(driven.tape)
    assert (image is None) == (what.image is None)
    latents = run.initial_latents(driven.tape)
    for index in range(what.steps):
        prediction = run.predict(latents, index)
        result = run.step(latents, prediction, index, driven.tape)
        driven(index, run.schedule.timesteps[index], latents, prediction, result)
        latents = result
    driven.frames = run.decode(latents)
    return driven


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_stages_reproduce_the_native_run(kind: str, sat: Any, make_case: Any, sampler: str) -> None:
    what = make_case(kind, sampler=sampler, dynamic_guidance=sampler == "dpm")
    by_loop = native(sat, what)
    assert_same(by_loop, by_stages(sat, what))
    frames = 4 if KINDS[kind].is_15 else 3  # 1.5 has its padding frame first
    assert by_loop.steps[0].latents.shape == (1, frames, 16, 6, 8)
    assert by_loop.frames.shape == (9, 48, 64, 3)
    assert bool(by_loop.frames.isfinite().all()) and float(by_loop.frames.std()) > 0
    stages = [draw.stage for draw in by_loop.tape.draws if draw.stage != "step"]
    assert stages == (["image", "initial"] if KINDS[kind].image else ["initial"])


def test_the_picture_stands_in_the_first_latent_frame_alone(
    kind: str, sat: Any, make_case: Any
) -> None:
    what, scale = make_case(kind), sat.policies().image_scale
    own = sat.prepare(what, Inputs()).encode_image(NoiseTape(0))
    if not KINDS[kind].image:
        assert own is None and scale is None
        return
    assert scale == (1.0 if KINDS[kind].is_15 else 0.7)
    assert own.shape == sat.prepare(what, Inputs()).latent_shape
    assert bool((own[:, 1:] == 0).all()) and float(own[:, 0].abs().min()) > 0
    again = sat.prepare(what, Inputs(image_scale=scale)).encode_image(NoiseTape(0))
    assert torch.equal(again, own)
    other = sat.prepare(what, Inputs(image_scale=1 / 0.7)).encode_image(NoiseTape(0))
    torch.testing.assert_close(other, own / scale / 0.7)
    assert_same(
        native(sat, what, Inputs(image_scale=0.5)), by_stages(sat, what, Inputs(image_scale=0.5))
    )
    with pytest.raises(InvalidRequest, match="call `encode_image` before"):
        sat.prepare(what, Inputs()).predict(own, 0)
    with pytest.raises(InvalidRequest, match="image_scale"):
        sat.prepare(what, Inputs(image_scale=float("nan")))


def test_the_picture_changes_the_render(
    kind: str, sat: Any, make_case: Any, tmp_path: Path
) -> None:
    if not KINDS[kind].image:
        with pytest.raises(InvalidRequest, match="text-to-video model, which takes none"):
            sat.prepare(make_case(kind, image="micro:red-circle.png"), Inputs())
        return
    Image.new("RGB", (64, 48), (255, 0, 0)).save(tmp_path / "red.png")
    red = native(sat, make_case(kind, image=str(tmp_path / "red.png")))
    first = native(sat, make_case(kind)).steps[0]
    assert torch.equal(red.steps[0].latents, first.latents)
    assert not torch.equal(red.steps[0].result, first.result)
    with pytest.raises(InvalidRequest, match="image=null with an image-to-video model"):
        sat.prepare(make_case(kind, image=None), Inputs())
    with pytest.raises(InvalidRequest, match="no such file"):
        native(sat, make_case(kind, image=str(tmp_path / "none.png")))


def test_what_a_kind_cannot_render_is_refused(kind: str, sat: Any, make_case: Any) -> None:
    refused = {"frames": 11, "height": 40, "guidance_scale": float("nan")}
    for name, value in refused.items():
        with pytest.raises((InvalidRequest, Unsupported), match=str(value)):
            sat.prepare(make_case(kind, **{name: value}), Inputs())
    with pytest.raises(Unsupported, match="no video-to-video"):
        sat.prepare(make_case(kind, image=None, video="micro:blue-square-clip.png"), Inputs())
    if KINDS[kind].is_15:
        with pytest.raises(Unsupported, match="13 frames are 5 latent frames"):
            sat.prepare(make_case(kind, frames=13), Inputs())
        with pytest.raises(Unsupported, match="1 frames are 2 latent frames"):
            sat.prepare(make_case(kind, frames=1), Inputs())
        with pytest.raises(Unsupported, match="ends at 17"):
            sat.prepare(make_case(kind, frames=25), Inputs())
        with pytest.raises(Unsupported, match="height=64"):
            sat.prepare(make_case(kind, height=64), Inputs())
        assert sat.prepare(make_case(kind, frames=17, height=16), Inputs()).latent_shape == (
            1, 6, 16, 2, 8,
        )  # fmt: skip
    else:
        with pytest.raises(Unsupported, match="17 frames"):
            sat.prepare(make_case(kind, frames=17), Inputs())


def test_text_of_another_length(kind: str, sat: Any, make_case: Any) -> None:
    """CogVideo's 1.5 YAML says 224 tokens, Diffusers 226; only 1.0's tables fix the length."""
    text = torch.randn(1, 18, 64, generator=torch.Generator().manual_seed(0))
    if not KINDS[kind].is_15:
        with pytest.raises(InvalidRequest, match="the shared text has shape"):
            sat.prepare(make_case(kind), Inputs(text=text))
        return
    run = sat.prepare(make_case(kind), Inputs(text=text))
    assert run.negative_text.shape == text.shape and not run.negative_text.any()
    with pytest.raises(InvalidRequest, match="share both or neither"):
        _ = sat.prepare(make_case(kind), Inputs(negative_text=text)).text


def test_1_5_may_decode_its_first_frame_to_one(
    kind: str, sat: Any, make_case: Any, family: dict[str, Path]
) -> None:
    from backends.sat.adapter import SatBackend

    options = {"device": "cpu", "first_frame": "single"}
    single = SatBackend().open(str(family[kind]), options)
    latents = native(sat, make_case(kind)).steps[-1].result
    four, one = (p.prepare(make_case(kind), Inputs()).decode(latents) for p in (sat, single))
    assert four.shape == one.shape
    assert torch.equal(four, one) != KINDS[kind].is_15
    counts = [p.policies().first_latent_frames for p in (sat, single)]
    assert counts == [4 if KINDS[kind].is_15 else 1, 1]
    single.close()


def test_pictures_of_other_sizes(tmp_path: Path) -> None:
    """1.0 covers the video and cuts the middle out; 1.5 stretches."""
    pixels = torch.arange(40 * 30 * 3).reshape(30, 40, 3).remainder(251).to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "p.png")
    path = str(tmp_path / "p.png")
    for period in (None, 2):
        same = load_picture(path, 30, 40, period)
        assert torch.equal(same[0].permute(1, 2, 0), pixels.float() / 255 * 2 - 1)
    cut = load_picture(path, 30, 20, None)
    assert torch.equal(cut, load_picture(path, 30, 40, None)[..., 10:30])
    assert load_picture(path, 48, 64, None).shape == (1, 3, 48, 64)
    assert load_picture(path, 48, 80, None).shape == (1, 3, 48, 80)
    stretched = Image.open(path).resize((20, 30), Image.Resampling.LANCZOS)
    expected = torch.tensor(list(stretched.getdata())).reshape(30, 20, 3).float() / 255 * 2 - 1
    assert torch.equal(load_picture(path, 30, 20, 2)[0].permute(1, 2, 0), expected)
