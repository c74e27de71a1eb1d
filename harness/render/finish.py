"""Turn the float frames that a worker left into what the store keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from harness.records import Frames
from harness.render.frames import frames_sha256, quantise, write_lossless, write_preview


def keep_frames(folder: Path, float_digest: str, fps: int) -> Frames:
    """Write `frames.mkv` and `preview.mp4` from `frames.safetensors`, which is then removed.

    Non-finite values are counted in the record and quantised as `harness.render.frames.quantise` says.
    """
    path = folder / "frames.safetensors"
    values = load_file(str(path))["frames"]
    pixels = quantise(values)
    write_lossless(folder / "frames.mkv", pixels, fps)
    write_preview(folder / "preview.mp4", pixels, fps)
    path.unlink()
    count, height, width, _ = pixels.shape
    return Frames(
        sha256=frames_sha256(pixels),
        float_digest=float_digest,
        non_finite=int(values.size - np.isfinite(values).sum()),
        frames=count,
        height=height,
        width=width,
    )
