"""The embedded LoRA on both stacks: the same function from either format, live and fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from backends import registry
from backends.base import Case, Identity, Inputs
from backends.checkpoints import convert, open_lora
from backends.micro import LORAS, checkpoint_path
from backends.noise import NoiseTape
from tests.micro.training.lora import ALPHA, RANK

(NAME,) = LORAS
CASE = Case(
    name="lora", model="micro-5b", prompt="a red circle moving left on a white background",
    negative_prompt="", frames=17, height=64, width=64, steps=4, guidance_scale=6.0,
    dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip


def distance(came: torch.Tensor, expected: torch.Tensor) -> float:
    return float((came - expected).norm() / expected.norm())


def velocities(
    backend: str, shared: Inputs | None, **options: Any
) -> tuple[list[torch.Tensor], Inputs, Identity]:
    """Guided calls at every step on the reference's latents' like, and what a pair would share."""
    pipeline = registry.load(backend).open("micro-5b", {"device": "cpu", "lora": NAME} | options)
    try:
        with torch.no_grad():
            run = pipeline.prepare(CASE, shared or Inputs())
            latents = run.initial_latents(NoiseTape(3))
            found = [run.predict(latents, step).velocity for step in range(CASE.steps)]
        own = Inputs(run.text, run.negative_text, run.schedule, "float32")
        return found, own, pipeline.identity()
    finally:
        pipeline.close()


@pytest.fixture(scope="module")
def reference() -> tuple[list[torch.Tensor], Inputs, Identity]:
    return velocities("diffusers", None)


@pytest.mark.parametrize(
    ("backend", "mode", "form"),
    [("diffusers", "fused", "diffusers"), ("sat", "live", "sat"), ("sat", "fused", "diffusers")],
)
def test_every_way_computes_the_same(
    reference: tuple[list[torch.Tensor], Inputs, Identity],
    backend: str,
    mode: str,
    form: str,
    tmp_path: Path,
) -> None:
    expected, shared, identity = reference
    lora = (
        str(convert(checkpoint_path(NAME), tmp_path / "sat", "sat").destination)
        if form == "sat"
        else NAME
    )
    came, _, other = velocities(backend, shared, lora=lora, lora_mode=mode)
    for step, (one, two) in enumerate(zip(came, expected, strict=True)):
        assert distance(one, two) < 1e-5, step
    assert other.configs["lora.scale"] == identity.configs["lora.scale"] == ALPHA / RANK
    if mode == "live":
        assert other.weights == identity.weights


def test_the_lora_does_something(
    reference: tuple[list[torch.Tensor], Inputs, Identity],
) -> None:
    expected, shared, _ = reference
    without, _, identity = velocities("diffusers", shared, lora=None)
    assert distance(without[0], expected[0]) > 0.01
    assert not any(key.startswith("lora") for key in identity.configs)


def test_what_is_embedded(tmp_path: Path) -> None:
    lora = open_lora(checkpoint_path(NAME))
    assert {(m.rank, m.alpha) for m in lora.modules.values()} == {(RANK, ALPHA)}
    assert not any("blocks.2." in name for name in lora.modules)
    assert sum(p.stat().st_size for p in checkpoint_path(NAME).iterdir()) < 100_000
