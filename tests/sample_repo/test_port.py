"""The suite of a team that ports a video model, with parity as its gate."""

import pytest
from port import original, ported

CASE = {
    "prompt": "a red circle moving left",
    "frames": 9,
    "height": 64,
    "width": 64,
    "steps": 6,
    "sampler": "ddim",
}

pytestmark = pytest.mark.parity(case=CASE, seeds=[0], settings=["match=native", "metrics=psnr"])


def test_port_is_equivalent(assert_equivalent):
    result = assert_equivalent(original(), ported(), names=("original", "port"))
    assert (result.reference, result.candidate, result.seeds) == ("original", "port", [0])


def test_port_renders_what_was_accepted(assert_golden):
    assert_golden(ported(), name="port")
