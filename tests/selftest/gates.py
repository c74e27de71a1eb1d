"""What the usual gates say of the same two renders, so that this one can be compared with them.

Each returns True where it would call the two different. Sources of the thresholds: FastVideo, vLLM-Omni,
SGLang, TensorRT-LLM and Diffusers, as their repositories' tests have them; the error against float64 as
in `torch._dynamo.utils.same`: RMSE(candidate) > 3 RMSE(reference) + tol / 10 with its tol of 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

from harness.metrics import Score, score_pair
from harness.render.frames import write_preview

Pixels = NDArray[np.uint8]
Latents = NDArray[np.float32]

GATES = (
    "allclose 1e-4", "cosine .99", "cosine .997", "PSNR 30", "PSNR 40", "SSIM .90", "SSIM .95",
    "LPIPS .1", "error-vs-fp64 x3", "3 key frames of an mp4",
)  # fmt: skip
"""In the order in which they are shown."""


def usual_gates(
    reference: Pixels,
    candidate: Pixels,
    final_a: Latents,
    final_b: Latents,
    precise: Latents | None,
    fps: int,
) -> dict[str, bool]:
    """Every gate's opinion: True = different. Frames (T, H, W, 3), final latents of any shape.

    `precise` are the reference's final latents computed in float64. A gate has no opinion and is left
    out where it lacks what it needs: these, or the weights of LPIPS.
    """
    if reference.shape != candidate.shape or final_a.shape != final_b.shape:
        return dict.fromkeys(GATES, True)
    psnr, ssim, lpips = (_score(reference, candidate, name) for name in ("psnr", "ssim", "lpips"))
    a, b = final_a.ravel().astype(np.float64), final_b.ravel().astype(np.float64)
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300))
    gates: dict[str, Callable[[], bool]] = {
        "allclose 1e-4": lambda: not np.allclose(a, b, rtol=1e-4, atol=1e-4),
        "cosine .99": lambda: not cosine >= 0.99,
        "cosine .997": lambda: not cosine >= 0.997,
        "PSNR 30": lambda: not psnr >= 30,
        "PSNR 40": lambda: not psnr >= 40,
        "SSIM .90": lambda: not ssim >= 0.90,
        "SSIM .95": lambda: not ssim >= 0.95,
        "3 key frames of an mp4": lambda: _key_frames(reference, candidate, fps),
    }
    if not math.isnan(lpips):
        gates["LPIPS .1"] = lambda: lpips > 0.1
    if precise is not None:
        o = precise.ravel().astype(np.float64)
        gates["error-vs-fp64 x3"] = lambda: not _rmse(b, o) <= 3 * _rmse(a, o) + 1e-5
    return {name: gates[name]() for name in GATES if name in gates}


def _rmse(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((x - y) ** 2)))


def _score(a: Pixels, b: Pixels, metric: str) -> float:
    result: Any = score_pair(a, b, {metric: {"tile_px": 16}})[metric]
    return result.value if isinstance(result, Score) else float("nan")


def _key_frames(a: Pixels, b: Pixels, fps: int) -> bool:
    """SGLang's way: first, middle and last frame of the encoded video, SSIM .92 and PSNR 28 dB."""
    with TemporaryDirectory(prefix="parity-gates-") as folder:
        decoded: list[Pixels] = []
        for name, pixels in (("a", a), ("b", b)):
            path = Path(folder) / f"{name}.mp4"
            write_preview(path, pixels, fps)
            decoded.append(np.stack(list(imageio.imiter(path, plugin="FFMPEG"))))
    keys = [0, len(a) // 2, len(a) - 1]
    if decoded[0].shape != decoded[1].shape:
        return True
    x, y = (video[keys] for video in decoded)
    return not (_score(x, y, "ssim") >= 0.92 and _score(x, y, "psnr") >= 28)
