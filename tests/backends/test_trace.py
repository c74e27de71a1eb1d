"""What a trace keeps is enough to see a difference and to measure a distance."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from backends.base import Prediction, TraceOptions
from backends.checkpoints.tensors import digest
from backends.stages.trace import TraceRecorder, sketch


def test_digest_sees_value_shape_and_dtype() -> None:
    x = torch.arange(6.0)
    assert digest(x) == digest(x.clone())
    others = [x + 1e-6, x.reshape(2, 3), x.double(), x.bfloat16(), x.flip(0)]
    assert len({digest(t) for t in [x, *others]}) == 6
    assert digest(x.reshape(2, 3).t().contiguous().t()) == digest(x.reshape(2, 3))
    assert digest(torch.tensor(1.0)) != digest(torch.tensor([1.0]))
    assert digest(torch.tensor(7.0).expand(1)) == digest(torch.tensor([7.0]))
    assert digest(torch.tensor(7.0).expand(2, 3)) == digest(torch.full((2, 3), 7.0))


def test_sketch_distance_is_close_to_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-6, 1e-2, 1.0):
        a = torch.randn(5, 16, 8, 8, generator=generator)
        b = a + scale * torch.randn(5, 16, 8, 8, generator=generator)
        ratio = (sketch(b) - sketch(a)).norm() / (b - a).norm()
        assert 0.8 < ratio < 1.2
    assert torch.equal(sketch(a), sketch(a.clone()))


def test_sketch_handles_sizes_that_fit_nothing() -> None:
    for size in (1, 63, 64, 511, 513):
        x = torch.ones(size)
        assert sketch(x).shape == (512,)
        if size <= 512:
            assert sketch(x).norm() == pytest.approx(size**0.5)


def test_recorder_keeps_probe_steps_and_the_first_broken_one_in_full_and_all_in_brief(
    tmp_path: Path,
) -> None:
    recorder = TraceRecorder(TraceOptions(probe_steps=[0, 2]))
    x = torch.ones(1, 2, 3, 4, 4)
    for step in range(4):
        velocity = torch.full_like(x, float(step))
        if step in (1, 3):
            velocity[0, 0, 0, 0, 0] = float("nan")
        recorder(step, 999 - step, x, Prediction(velocity, velocity, 6.0), x - velocity)
    steps = recorder.save(tmp_path / "trace.safetensors")
    kept = load_file(str(tmp_path / "trace.safetensors"))
    assert {name for name in kept if name.startswith("step_")} == {
        f"step_{i}.{part}" for i in (0, 1, 2) for part in ("in", "velocity", "out")
    }
    assert kept["latents_sketches"].shape == (4, 512)
    assert [s["velocity_finite"] for s in steps] == [True, False, True, False]
    assert [s["timestep"] for s in steps] == [999, 998, 997, 996]


def test_a_render_without_steps_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was observed"):
        TraceRecorder(TraceOptions(probe_steps=[])).save(tmp_path / "trace.safetensors")
