"""CUDA in the arguments of torch calls becomes the CPU, inside the context and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backends.sat.tree.device import on_device


def test_literals_and_methods_stay_on_the_cpu() -> None:
    with on_device(torch.device("cpu")):
        made = [
            torch.ones(2, device="cuda"),
            torch.zeros(2, device=torch.device("cuda", 1)),
            torch.ones(2).to("cuda:0"),
            torch.ones(2).cuda(),
            torch.ones(2).cuda(0),
            torch.ones(2).to(device="cuda", dtype=torch.bfloat16),
        ]
        layer = nn.Linear(2, 2).cuda().to("cuda")
    assert {tensor.device.type for tensor in made} == {"cpu"}
    assert made[-1].dtype == torch.bfloat16
    assert layer.weight.device.type == "cpu" and isinstance(layer.weight, nn.Parameter)


def test_cuda_is_left_alone() -> None:
    with on_device(torch.device("cuda")):
        assert torch.overrides._get_current_function_mode_stack() == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="only without CUDA does it fail")
def test_outside_nothing_is_changed() -> None:
    with on_device(torch.device("cpu")):
        torch.ones(2).cuda()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2).cuda()
