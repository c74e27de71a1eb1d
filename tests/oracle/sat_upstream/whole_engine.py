"""Whole renders: CogVideo's own `SATVideoDiffusionEngine` beside the built-in `sat` backend.

One SAT folder, written by the conversion, is opened by both; noise comes from one tape in the order in
which upstream draws it, by the sampler that the folder's YAML names. Compared are the text embedding,
the picture's latents, what the network gave at each step, the solver's state after each step, and the
frames. Tag v1.0 renders the 1.0 kinds, the main branch the 1.5 kinds.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from comparisons import Figure, figure
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from upstream import Upstream

from backends.base import Case, Inputs, Prediction
from backends.checkpoints import convert
from backends.checkpoints.sat.layout import find_parts
from backends.micro import MODELS, model_path
from backends.noise import NoiseTape
from backends.sat.adapter import SatBackend
from backends.stages.intercept import draws_from

sys.path[:0] = [str(Path(__file__).parents[2] / room) for room in ("checkpoints", "family")]

from test_cross_stack import InOrder  # noqa: E402
from tiny_pipelines import KINDS, save_pipeline  # noqa: E402

STEPS = 3


@dataclass
class Seen:
    """What one render showed. `outputs` and `states` are one a step, in float32."""

    text: Tensor = field(default_factory=lambda: torch.empty(0))
    image: Tensor | None = None
    outputs: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    frames: Tensor = field(default_factory=lambda: torch.empty(0))


def whole_engine(upstream: Upstream) -> Iterator[Figure]:
    """Tiny random models of every kind that the checkout renders, and the micro models."""
    with TemporaryDirectory() as work:
        picture = Path(work) / "picture.png"
        pixels = torch.randint(0, 256, (48, 64, 3), generator=torch.Generator().manual_seed(0))
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(picture)
        for name, kind in KINDS.items():
            if kind.is_15 == upstream.is_v1:
                continue
            source = save_pipeline(Path(work) / name, name, spread=0.1)
            given = str(picture) if kind.image else None
            case = _case(name, "a red ball", given, frames=9, height=48, width=64)
            yield from _compare(upstream, source, case)
        for name in MODELS:
            if not model_path(name).is_dir() or ("1.5" in name) == upstream.is_v1:
                continue
            given = "micro:red-circle.png" if "i2v" in name else None
            words = "a red circle moving left on a white background"
            case = _case(name, words, given, frames=17, height=64, width=64)
            yield from _compare(upstream, model_path(name), case)


def _case(name: str, prompt: str, image: str | None, **size: int) -> Case:
    return Case(
        name, name, prompt, "", steps=STEPS, guidance_scale=6.0, dynamic_guidance=True,
        sampler="dpm", fps=8, image=image, **size,
    )  # fmt: skip


def _compare(upstream: Upstream, source: Path, case: Case) -> Iterator[Figure]:
    with TemporaryDirectory() as work:
        folder = Path(work) / "sat"
        convert(source, folder, "sat")
        target = OmegaConf.load(find_parts(folder)[0].config).model.sampler_config.target
        case = replace(case, sampler="ddim" if target.endswith("DDIMSampler") else "dpm")
        came, image = _own(folder, case)
        expected = _theirs(upstream, folder, case, image)
    name = case.name
    yield figure(f"{name} text", came.text.float(), expected.text.float())
    if came.image is not None and expected.image is not None:
        yield figure(f"{name} image latents", came.image, expected.image)
    for what in ("outputs", "states"):
        pairs = zip(getattr(came, what), getattr(expected, what), strict=True)
        for step, (own, reference) in enumerate(pairs):
            yield figure(f"{name} {what.removesuffix('s')} of step {step}", own, reference)
    yield figure(f"{name} frames", came.frames, expected.frames)


def _own(folder: Path, case: Case) -> tuple[Seen, Tensor | None]:
    """The built-in backend, and the picture as it prepared it."""
    from backends.sat.picture import load_picture

    pipeline = SatBackend().open("none", {"device": "cpu", "checkpoint": str(folder)})
    seen = Seen()

    def observe(_s: int, _t: int, _x: Tensor, prediction: Prediction, result: Tensor) -> None:
        seen.outputs.append(prediction.branches)
        seen.states.append(result)

    run = pipeline.prepare(case, Inputs())
    seen.text = run.text
    seen.image = run.encode_image(NoiseTape(0))
    seen.frames = pipeline.render(case, Inputs(), NoiseTape(0), observe)
    pipeline.close()
    if case.image is None:
        return seen, None
    period = find_parts(folder)[1].transformer.patch_size_t
    return seen, load_picture(case.image, case.height, case.width, period)


def _theirs(upstream: Upstream, folder: Path, case: Case, picture: Tensor | None) -> Seen:
    """The steps of `sample_video.py` that compute something, on upstream's engine."""
    engine, seen = _engine(upstream, folder, case), Seen()
    channels, rows, columns = 16, case.height // 8, case.width // 8
    length = (case.frames - 1) // 4 + 1 + int(not upstream.is_v1)
    with upstream.on_cpu(), draws_from(InOrder(NoiseTape(0), case)):  # type: ignore[arg-type]
        batch = {"txt": [case.prompt]}
        cond, uncond = engine.conditioner.get_unconditional_conditioning(
            dict(batch), batch_uc=dict(batch), force_uc_zero_embeddings=["txt"]
        )
        seen.text = cond["crossattn"]
        if picture is not None:
            first = engine.encode_first_stage(picture.unsqueeze(2), None)
            if not upstream.is_v1:
                first = first / engine.scale_factor
            first = first.permute(0, 2, 1, 3, 4).contiguous()
            padding = torch.zeros(1, length - 1, channels, rows, columns)
            seen.image = torch.concat([first, padding], dim=1)
            cond["concat"] = uncond["concat"] = seen.image
        more = {} if upstream.is_v1 or picture is None else {"ofs": torch.tensor([2.0])}
        with _watched(engine, seen):
            samples = engine.sample(
                cond, uc=uncond, batch_size=1, shape=(length, channels, rows, columns), **more
            )
        video = _decoded(upstream, engine, samples.permute(0, 2, 1, 3, 4).contiguous())
    frames = torch.clamp((video.float() + 1.0) / 2.0, min=0.0, max=1.0)[0].permute(1, 2, 3, 0)
    seen.frames = frames[-case.frames :]
    return seen


def _engine(upstream: Upstream, folder: Path, case: Case) -> Any:
    parts, _ = find_parts(folder)
    model: Any = OmegaConf.load(parts.config).model
    model.network_config.params.transformer_args.checkpoint_activations = False
    text = model.conditioner_config.params.emb_models[0].params
    text.model_dir, text.device = str(parts.text), "cpu"
    first_stage = model.first_stage_config.params
    first_stage.ckpt_path, first_stage.cp_size = str(parts.vae), 0
    model.sampler_config.params.device = "cpu"
    model.sampler_config.params.num_steps = case.steps
    model.sampler_config.params.guider_config.params.num_steps = case.steps
    model.loss_fn_config = None
    engine_class = import_module("diffusion_video").SATVideoDiffusionEngine
    args = Namespace(model_config=model, fp16=False, bf16=False, device="cpu")
    with upstream.on_cpu():
        engine = engine_class(args).eval()
    iteration = (parts.transformer / "latest").read_text()
    states = parts.transformer / iteration / "mp_rank_00_model_states.pt"
    missing, unexpected = engine.load_state_dict(
        torch.load(states, weights_only=True)["module"], strict=False
    )
    assert not unexpected
    assert all(name.startswith(("first_stage_model", "conditioner")) for name in missing)
    return engine.float()


@contextmanager
def _watched(engine: Any, seen: Seen) -> Iterator[None]:
    """Record the network's outputs and the sampler's state."""
    forward, step = engine.model.forward, engine.sampler.sampler_step

    def seen_forward(*args: Any, **kwargs: Any) -> Any:
        seen.outputs.append(forward(*args, **kwargs))
        return seen.outputs[-1]

    def seen_step(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        seen.states.append(result[0] if isinstance(result, tuple) else result)
        return result

    with (
        patch.object(engine.model, "forward", seen_forward),
        patch.object(engine.sampler, "sampler_step", seen_step),
    ):
        yield


def _decoded(upstream: Upstream, engine: Any, samples: Tensor) -> Tensor:
    """v1.0's script decodes in pieces itself; the main branch's engine does it for the script."""
    if not upstream.is_v1:
        return engine.decode_first_stage(samples)
    latent = 1.0 / engine.scale_factor * samples
    rounds = (latent.shape[2] - 1) // 2
    pieces = [(0, 3)] + [(i * 2 + 1, i * 2 + 3) for i in range(1, rounds)]
    return torch.cat(
        [
            engine.first_stage_model.decode(
                latent[:, :, start:end].contiguous(), clear_fake_cp_cache=end == latent.shape[2]
            )
            for start, end in pieces
        ],
        dim=2,
    )
