"""The VAE against Diffusers' own, with the same weights, and its pieces and caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_sat import VAE, relative, scramble

from backends.errors import InvalidRequest
from backends.sat.causal import CausalConv3d, SplitConv3d
from backends.sat.vae import VideoAutoencoder, decode_pieces, equal_pieces


@pytest.fixture(scope="module")
def vaes() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    from backends.checkpoints.mapping import vae_table
    from backends.checkpoints.sat.checkpoint import load_exactly

    widths = tuple(VAE.ch * m for m in VAE.ch_mult)
    other = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=widths,
        latent_channels=VAE.z_channels,
        layers_per_block=VAE.num_res_blocks,
        temporal_compression_ratio=4,
    ).eval()
    scramble(other)
    own = VideoAutoencoder(VAE).eval()
    load_exactly(own, vae_table(VAE).to_sat(dict(other.named_parameters())), "the test")
    return own, other


def _latents(frames: int) -> torch.Tensor:
    return torch.randn(1, 4, frames, 3, 4, generator=torch.Generator().manual_seed(frames))


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 7])
def test_decoding_equals_diffusers(vaes: Any, frames: int) -> None:
    own, other = vaes
    came, expected = own.decode(_latents(frames)), other.decode(_latents(frames)).sample
    assert came.shape == (1, 3, 4 * frames - 3, 12, 16)
    assert relative(came, expected) <= 1e-5


@torch.no_grad()
def test_1_5_decodes_the_first_frame_to_four_or_to_one(vaes: Any) -> None:
    """CogVideo issue 614: 84 frames where 81 were asked for; with a lone first frame, Diffusers'."""
    own, other = vaes
    latents = _latents(3)
    alone = own.decode(latents, equal_pieces(3), lone_first=True)
    assert relative(alone, other.decode(latents).sample) <= 1e-5
    four = own.decode(latents, equal_pieces(3), lone_first=False)
    assert four.shape == (1, 3, 12, 12, 16)
    assert relative(four[:, :, -9:], alone) > 1e-3


@torch.no_grad()
def test_encoding_one_frame_equals_diffusers(vaes: Any) -> None:
    """For more frames the two differ: Diffusers encodes eight at a time, SAT all at once."""
    own, other = vaes
    video = torch.rand(1, 3, 1, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = own.encode(video, torch.zeros_like)
    assert relative(mean, other.encode(video).latent_dist.mean) <= 1e-5
    shifted = own.encode(video, torch.ones_like)
    assert relative(shifted - mean, other.encode(video).latent_dist.std) <= 1e-4


def test_pieces() -> None:
    assert decode_pieces(1) == [(0, 1)]
    assert decode_pieces(3) == [(0, 3)]
    assert decode_pieces(13) == [(0, 3), (3, 5), (5, 7), (7, 9), (9, 11), (11, 13)]
    for frames in (0, 2, 12):
        with pytest.raises(InvalidRequest, match=f"{frames} latent frames"):
            decode_pieces(frames)


def test_pieces_of_1_5() -> None:
    assert equal_pieces(2) == [(0, 2)]
    for frames in (3, 5, 13, 21):
        assert equal_pieces(frames) == decode_pieces(frames)
    assert [end - start for start, end in equal_pieces(23)] == [3, 3, 3, *[2] * 7]
    assert [end - start for start, end in equal_pieces(41)] == [5, *[4] * 9]
    with pytest.raises(InvalidRequest, match="1 latent frames"):
        equal_pieces(1)


@torch.no_grad()
def test_a_broken_decode_leaves_no_cache(vaes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own, _ = vaes
    expected = own.decode(_latents(5))
    monkeypatch.setattr(own.decoder.conv_out.conv, "forward", lambda _x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        own.decode(_latents(5))
    monkeypatch.undo()
    caches = [m._cache for m in own.modules() if isinstance(m, CausalConv3d)]
    assert caches and all(cache is None for cache in caches)
    assert torch.equal(own.decode(_latents(5)), expected)


@torch.no_grad()
def test_splitting_a_long_convolution_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = SplitConv3d(2, 3, 3).double()
    x = torch.randn(1, 2, 11, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = conv(x)
    monkeypatch.setattr("backends.sat.causal._SPLIT_ELEMENTS", 100)
    torch.testing.assert_close(conv(x), whole)
