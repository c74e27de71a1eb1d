"""torch's own draws come from the tape, whichever call makes them, or the render fails."""

import numpy as np
import pytest
import torch

from backends.errors import TapeError
from backends.noise import NoiseTape, standard_normal
from backends.stages.intercept import draws_from

SLOT = 1 << 48  # stage "step", step 0, first draw


def _first(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(standard_normal(3, SLOT, shape))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(2, 3),
        lambda: torch.randn((2, 3), generator=torch.Generator().manual_seed(1)),
        lambda: torch.randn(size=(2, 3)),
        lambda: torch.randn_like(torch.zeros(2, 3)),
        lambda: torch.empty(2, 3).normal_(),
        lambda: torch.normal(0.0, 1.0, (2, 3)),
        lambda: torch.normal(torch.zeros(2, 3), torch.ones(2, 3)),
    ],
)
def test_every_normal_draw_is_served(draw) -> None:
    tape = NoiseTape(3)
    with draws_from(tape), tape.stage("step", 0, 1, 1, (2, 3)):
        assert torch.equal(draw(), _first((2, 3)))


def test_dtype_is_the_callers_and_rounding_happens_once() -> None:
    tape = NoiseTape(3)
    with draws_from(tape), tape.stage("step", 0, 1, 1, (2, 3)):
        drawn = torch.randn_like(torch.zeros(2, 3, dtype=torch.bfloat16))
    assert torch.equal(drawn, _first((2, 3)).bfloat16())


def test_mean_and_standard_deviation_are_applied() -> None:
    tape = NoiseTape(3)
    with draws_from(tape), tape.stage("step", 0, 1, 1, (4,)):
        drawn = torch.empty(4).normal_(mean=-3.0, std=0.5)
    assert torch.equal(drawn, _first((4,)) * 0.5 - 3.0)


def test_diffusers_randn_tensor_is_served() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    tape = NoiseTape(3)
    with draws_from(tape), tape.stage("step", 0, 1, 1, (1, 4)):
        drawn = randn_tensor((1, 4), device=torch.device("cpu"), dtype=torch.float32)
    assert torch.equal(drawn, _first((1, 4)))


def test_a_draw_that_slips_past_is_noticed() -> None:
    with pytest.raises(TapeError, match="global generator"), draws_from(NoiseTape(0)):
        torch.rand(1)


def test_everything_is_put_back() -> None:
    before = (torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_)
    with pytest.raises(RuntimeError), draws_from(NoiseTape(0)):
        raise RuntimeError
    assert (torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_) == before
    state = torch.get_rng_state()
    with draws_from(NoiseTape(0)):
        pass
    assert np.array_equal(state.numpy(), torch.get_rng_state().numpy())
