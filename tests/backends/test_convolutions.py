"""Convolutions at reduced precision on a CPU: one rounding of a float32 result."""

import pytest
import torch
from torch import nn

from backends.stages.convolutions import accumulate_in_float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d])
def test_it_is_the_float32_result_rounded_once(kind: type, dtype: torch.dtype) -> None:
    module = kind(3, 5, kernel_size=3, padding=1).to(dtype)
    x = torch.randn(2, 3, *[6] * (2 if kind is nn.Conv2d else 3)).to(dtype)
    wide = kind(3, 5, kernel_size=3, padding=1)
    wide.load_state_dict(module.float().state_dict())
    module.to(dtype)
    plain = module(x)
    accumulate_in_float32(nn.Sequential(module))
    expected = wide(x.float()).to(dtype)
    assert torch.equal(module(x), expected)
    # torch's own kernel rounds the same sum, taken in another order.
    assert (plain.float() - expected.float()).abs().max() <= 2 * torch.finfo(dtype).eps * 4


def test_float32_is_left_as_it_was() -> None:
    module = nn.Conv3d(3, 5, kernel_size=3)
    x = torch.randn(1, 3, 5, 5, 5)
    before = module(x)
    accumulate_in_float32(module)
    assert torch.equal(module(x), before)
