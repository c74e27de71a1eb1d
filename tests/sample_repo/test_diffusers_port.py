"""The same gate on pipelines of Diffusers that the suite has made itself."""

import pytest
import torch
from diffusers import CogVideoXPipeline

from backends.micro import model_path

CASE = {"steps": 2}

pytestmark = pytest.mark.parity(case=CASE, seeds=[0], settings=["match=native", "metrics=psnr"])


def pipeline() -> CogVideoXPipeline:
    return CogVideoXPipeline.from_pretrained(model_path("micro-5b"), dtype=torch.float32)


def test_a_pipeline_of_our_own_is_equivalent(assert_equivalent):
    assert_equivalent(pipeline(), pipeline(), names=("hub", "ours"))
