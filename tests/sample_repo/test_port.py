"""The suite of a team that ports CogVideoX, with parity as its gate."""

import pytest
from port import OwnPipeline, original, ported

CASE = {
    "prompt": "a red circle moving left on a white background",
    "frames": 5,
    "height": 64,
    "width": 64,
    "steps": 4,
}


@pytest.fixture(scope="module")
def reference():
    return original()


def test_instance(assert_equivalent, reference):
    assert_equivalent(reference, ported(), case=CASE, seeds=[0])


@pytest.mark.parity(case=CASE, seeds=[1], names=("original", "port"))
def test_function_that_makes_the_pipeline(assert_equivalent):
    result = assert_equivalent(original, ported)
    assert (result.reference, result.candidate, result.seeds) == ("original", "port", [1])


def test_own_pipeline_with_the_stages(assert_equivalent, reference):
    assert_equivalent(reference, OwnPipeline(), case=CASE, seeds=[0])


@pytest.mark.parity(case=CASE, seeds=[0])
def test_golden(assert_golden):
    assert_golden(ported)
