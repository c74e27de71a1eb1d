"""The adversary's defects in the decoder on Diffusers and in what becomes of its frames.

Videos of the decoder are (B, 3, T, H, W), about [-1, 1]; frames are (T, H, W, 3) in [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backends.base import Pipeline
from backends.noise import standard_normal
from backends.worker.patches import patch
from tests.selftest.faults.decoder import on_latents, on_video
from tests.selftest.faults.frames import after_decoding
from tests.selftest.faults.planting import become, exchange, module, stack


@patch("unseen_decoder_band_at_large_size")
def decoder_band_at_large_size(pipeline: Pipeline) -> None:
    """Wider videos get a wrong bottom quarter in the last latent's frames."""

    def change(video: Tensor) -> Tensor:
        if video.shape[-1] > 64:
            video = video.clone()
            top = video.shape[-2] * 3 // 4
            video[:, :, -4:, top:] = video[:, :, -4:, top:].roll(1, dims=-1)
        return video

    on_video(pipeline, change)


@patch("unseen_decoder_edges_replicated")
def decoder_edges_replicated(pipeline: Pipeline) -> None:
    """The last convolution pads its edges with copies, not with zeros."""
    conv = module(pipeline, "vae.decoder.conv_out").conv

    def forward(self: Any, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate")
        return F.conv3d(padded, self.weight, self.bias)

    become(conv, forward=forward)


@patch("unseen_decoder_gamma_beta")
def decoder_gamma_beta(pipeline: Pipeline) -> None:
    """Weight and bias of one group norm exchanged."""
    norm = module(pipeline, "vae.decoder.mid_block.resnets.0.norm1.norm_layer")
    exchange(norm.weight, norm.bias)


@patch("unseen_decoder_pieces_blended")
def decoder_pieces_blended(pipeline: Pipeline) -> None:
    """The first frame of a second piece is mixed with the one before. Shows in longer videos only."""

    def change(video: Tensor) -> Tensor:
        video = video.clone()
        if video.shape[2] > 9:
            video[:, :, 9] = (video[:, :, 8] + video[:, :, 9]) / 2
        return video

    on_video(pipeline, change)


@patch("unseen_decoder_odd_latent_last")
def decoder_odd_latent_last(pipeline: Pipeline) -> None:
    """The odd latent frame goes with the last piece, not with the first."""
    vae = stack(pipeline).vae

    def decode(self: Any, z: Tensor, return_dict: bool = True) -> Any:
        from diffusers.models.autoencoders.vae import DecoderOutput

        size, cache, done = self.num_latent_frames_batch_size, None, list[Tensor]()
        starts = list(range(0, max(z.shape[2] - z.shape[2] % size, 1), size))
        for start, end in zip(starts, [*starts[1:], z.shape[2]], strict=True):
            frames, cache = self.decoder(z[:, :, start:end], conv_cache=cache)
            done.append(frames)
        return DecoderOutput(sample=torch.cat(done, dim=2))

    become(vae, _decode=decode)


@patch("unseen_decoder_shift_of_other_vae")
def decoder_shift_of_other_vae(pipeline: Pipeline) -> None:
    """Latents are shifted as those of an image model's VAE are."""
    on_latents(pipeline, lambda z: z + 0.1159)


@patch("unseen_decoder_levels_wrap")
def decoder_levels_wrap(pipeline: Pipeline) -> None:
    """Values beyond white start again at black: cast to uint8 without a clamp."""

    def wrapped(self: Any, images: Tensor) -> Tensor:
        levels = ((images * 0.5 + 0.5) * 255).floor()
        return (levels % 256) / 255

    become(stack(pipeline).video_processor, denormalize=wrapped)


_BT601 = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_BT709 = torch.tensor([[0.2126, 0.7152, 0.0722], [-0.114572, -0.385428, 0.5],
                       [0.5, -0.454153, -0.045847]])  # fmt: skip


@after_decoding("unseen_frames_matrix_mixed")
def frames_matrix_mixed(video: Tensor) -> Tensor:
    """Written with the matrix of BT.601 and read with that of BT.709. Greys do not change."""
    return (video @ _BT601.T @ torch.linalg.inv(_BT709).T).clamp(0, 1)


@after_decoding("unseen_frames_chroma_halved")
def frames_chroma_halved(video: Tensor) -> Tensor:
    """Colour at half the resolution (4:2:0)."""
    planes = (video @ _BT709.T).permute(0, 3, 1, 2)
    small = F.avg_pool2d(planes[:, 1:], 2)
    chroma = F.interpolate(small, size=planes.shape[-2:], mode="nearest")
    back = torch.cat((planes[:, :1], chroma), dim=1).permute(0, 2, 3, 1)
    return (back @ torch.linalg.inv(_BT709).T).clamp(0, 1).contiguous()


@after_decoding("unseen_frames_half_pixel")
def frames_half_pixel(video: Tensor) -> Tensor:
    """Half a pixel to the left: a scaler with the other convention of pixel centres."""
    return torch.cat(((video[:, :, 1:] + video[:, :, :-1]) / 2, video[:, :, -1:]), dim=2)


@after_decoding("unseen_frames_dithered")
def frames_dithered(video: Tensor) -> Tensor:
    """Dithered by half a grey level before it is quantised."""
    drawn = torch.from_numpy(np.asarray(standard_normal(3, 0, video.shape)))
    return (video + drawn.clamp(-1, 1) * 0.5 / 255).clamp(0, 1)


@after_decoding("unseen_frames_pair_exchanged")
def frames_pair_exchanged(video: Tensor) -> Tensor:
    """Two neighbouring frames in the wrong order, as written in decoding order."""
    video = video.clone()
    video[[3, 4]] = video[[4, 3]]
    return video


@after_decoding("unseen_frames_watermark")
def frames_watermark(video: Tensor) -> Tensor:
    """An invisible watermark: one grey level, in blue, in a pattern over one corner."""
    video = video.clone()
    pattern = (torch.arange(64).view(8, 8) * 37 % 64 < 32).float()
    video[:, :8, :8, 2] += (1 - 2 * pattern) / 255
    return video.clamp(0, 1)


@after_decoding("unseen_frames_last_row_copied")
def frames_last_row_copied(video: Tensor) -> Tensor:
    """The bottom row is the one above it: a codec's padding came through."""
    video = video.clone()
    video[:, -1] = video[:, -2]
    return video


@after_decoding("unseen_frames_colours_matched")
def frames_colours_matched(video: Tensor) -> Tensor:
    """Every frame's mean colour is brought to that of the first frame."""
    means = video.mean(dim=(1, 2), keepdim=True)
    return (video + means[:1] - means).clamp(0, 1)


@after_decoding("unseen_frames_sharpened")
def frames_sharpened(video: Tensor) -> Tensor:
    """Sharpened a little, as an upscaler at scale 1 does."""
    planes = video.permute(0, 3, 1, 2)
    soft = F.avg_pool2d(F.pad(planes, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (planes + 0.1 * (planes - soft)).clamp(0, 1).permute(0, 2, 3, 1).contiguous()
