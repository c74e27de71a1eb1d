"""Options, dtypes, cases and process-wide settings of the Diffusers backend."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from contract_driving import assert_same, native, staged
from diffusers import CogVideoXTransformer3DModel
from small_renders import CASE, Full, opened

from backends.base import Inputs
from backends.diffusers.options import DiffusersOptions, parse_options
from backends.errors import InvalidRequest, MissingPrerequisite
from backends.micro import model_path
from backends.stages.runtime import in_force

CONF = Path(__file__).parents[2] / "conf" / "backend"


def test_the_yaml_lists_every_option_with_its_default() -> None:
    written = yaml.safe_load((CONF / "diffusers.yaml").read_text())
    for key in ("backend", "patch", "python", "threads"):
        del written[key]
    assert parse_options(written) == DiffusersOptions()
    assert list(written) == list(DiffusersOptions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("placment", "full", "did you mean 'placement'"),
        ("placement", "modeloffload", "did you mean 'model_offload'"),
        ("attention", None, "expected one of default"),
        ("vae_tiling", "yes", "expected true or false"),
        ("revision", 3, "expected a name or null"),
    ],
)
def test_a_bad_option_is_named(name: str, value: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_options({name: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(MissingPrerequisite, match="no CUDA device"):
        opened(device="cuda")


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bfloat16", "vae_dtype": "float32", "text_dtype": "float32"},
        {"dtype": "float32", "vae_dtype": "bfloat16", "text_dtype": "bfloat16"},
        {"dtype": "float16"},
        {"dtype": "float64"},
        {"vae_tiling": True, "vae_slicing": True},
    ],
    ids=str,
)
def test_components_have_dtypes_and_switches_of_their_own(options: dict[str, object]) -> None:
    # The 5B-like model overflows in float16, as the real one does.
    pipeline = opened("micro-2b", **options)
    identity = pipeline.identity()
    dtype = options.get("dtype", "float32")
    assert identity.dtypes["transformer"] == dtype
    assert identity.dtypes["vae"] == options.get("vae_dtype", dtype)
    if dtype != "float16":
        assert identity.dtypes["text_encoder"] == options.get("text_dtype", dtype)
    else:
        # transformers keeps T5's `wo` in float32: in float16 it overflows.
        assert identity.dtypes["text_encoder"] == "float16, float32"
    assert identity.configs["vae.use_tiling"] == options.get("vae_tiling", False)
    driven = native(pipeline, CASE)
    assert torch.isfinite(driven.frames).all()
    assert_same(driven, staged(pipeline, CASE))
    pipeline.close()


def test_float64_computes_the_transformer_in_float64(full: Full) -> None:
    pipeline = opened(dtype="float64")
    precise = native(pipeline, CASE).steps[0]
    alone: Any = CogVideoXTransformer3DModel.from_pretrained(
        model_path("micro-5b"), subfolder="transformer", torch_dtype=torch.float64
    )
    run: Any = pipeline.prepare(CASE, Inputs())
    rotary = run._stack.pipe._prepare_rotary_positional_embeddings(32, 32, 3, torch.device("cpu"))
    with torch.no_grad():
        branches = alone(
            precise.latents.expand(2, -1, -1, -1, -1),
            torch.cat([run.negative_text, run.text]),
            torch.full((2,), precise.timestep),
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
    assert branches.dtype == precise.prediction.branches.dtype == torch.float64
    assert torch.allclose(branches, precise.prediction.branches, rtol=0, atol=1e-12)
    by_float32 = full.render.steps[0].prediction.branches
    assert not torch.equal(branches.float(), by_float32)
    pipeline.close()


def test_tiling_left_on_does_not_leak_into_the_next_pipeline(full: Full) -> None:
    tiled = opened(vae_tiling=True)
    native(tiled, replace(CASE, height=64, width=64))
    tiled.close()
    fresh = opened()
    assert torch.equal(native(fresh, CASE).frames, full.render.frames)
    fresh.close()


def test_a_prompt_that_is_cut_is_said(full: Full, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "parity")
    full.pipeline.prepare(CASE, Inputs())
    assert caplog.text == ""
    full.pipeline.prepare(replace(CASE, prompt="a red circle " * 20), Inputs())
    assert "prompt has" in caplog.text and "24" in caplog.text


def test_more_frames_than_trained_are_said(full: Full, caplog: pytest.LogCaptureFixture) -> None:
    full.pipeline.prepare(replace(CASE, frames=33), Inputs())
    assert "trained on at most 17" in caplog.text


def test_settings_hold_inside_only_and_survive_an_error() -> None:
    seen: list[tuple[bool, bool]] = []

    class Inner(torch.nn.Module):
        def forward(self, fail: bool) -> None:
            cuda = torch.backends.cuda
            seen.append((cuda.math_sdp_enabled(), cuda.flash_sdp_enabled()))
            if fail:
                raise RuntimeError("on purpose")

    inner, cuda = Inner(), torch.backends.cuda
    before = cuda.math_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.matmul.allow_tf32
    with pytest.raises(RuntimeError, match="on purpose"), in_force(inner, "math", True):
        assert cuda.matmul.allow_tf32 and not torch.is_grad_enabled()
        inner(False)
        assert (cuda.math_sdp_enabled(), cuda.flash_sdp_enabled()) == before[:2]
        inner(True)
    assert seen == [(True, False)] * 2
    assert (cuda.math_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.matmul.allow_tf32) == before
    assert not inner._forward_hooks and not inner._forward_pre_hooks


def test_attention_kernels_differ_by_rounding_only(full: Full) -> None:
    pipeline = opened(attention="math")
    frames = native(pipeline, CASE).frames
    assert (frames - full.render.frames).abs().max() < 1e-4
    pipeline.close()
