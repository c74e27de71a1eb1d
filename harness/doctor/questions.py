"""The doctor's questions to an interpreter: `python -m harness.doctor.questions video|metrics|devices`.

Each prints rows as JSON, one a line. Run as a program, because what it imports may crash.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.base import DTYPES
from harness.errors import ParityError
from harness.metrics import Score, metric_names, score_pair
from harness.metrics.lpips_sources import at_hand
from harness.metrics.lpips_weights import difference
from harness.render.frames import read_frames, write_lossless

_FRAMES, _SIDE_PX = 5, 64


def video() -> Iterator[dict[str, Any]]:
    """Store a video without loss and read it back."""
    import numpy as np

    shape = (_FRAMES, _SIDE_PX, _SIDE_PX, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    row = {"area": "video", "what": "FFV1", "needed": True}
    with tempfile.TemporaryDirectory(prefix="parity-doctor-") as folder:
        path = Path(folder) / "frames.mkv"
        try:
            write_lossless(path, frames, 8)
            read_frames(path)
        except ParityError as error:
            yield {**row, "state": "fails", "detail": str(error)}
            return
    yield {**row, "state": "works", "detail": "stored and read back to the bit"}


def metrics() -> Iterator[dict[str, Any]]:
    """Score a tiny pair with every metric under its default options."""
    import numpy as np

    shape = (_FRAMES, _SIDE_PX, _SIDE_PX, 3)
    reference, noise = np.random.default_rng(0).integers(0, 128, (2, *shape), dtype=np.uint8)
    for name in metric_names():
        result = score_pair(reference, reference + noise // 16, {name: {}})[name]
        row = {"area": "metric", "what": name}
        if isinstance(result, Score):
            used = f", with {result.spec.weights}" if result.spec.weights else ""
            yield {**row, "state": "works", "detail": f"in {result.unit}{used}"}
        else:
            yield {**row, "state": "fails", "detail": result.reason, "remedy": result.remedy}
    yield from _weights_at_hand()


def _weights_at_hand() -> Iterator[dict[str, Any]]:
    """Whether the two sources of LPIPS's backbone hold the same weights, where both are here."""
    found, missing = at_hand()
    row = {"area": "metric", "what": "lpips weights"}
    if len(found) == 2:
        differ = difference(*found)
        state = "works" if differ is None else "fails"
        yield {**row, "state": state, "detail": differ or "both sources are equal in every bit"}
    elif found:
        here = found[0].identity
        yield {**row, "state": "works", "detail": f"{here}; not compared: {'; '.join(missing)}"}


def devices() -> Iterator[dict[str, Any]]:
    """Multiply, convolve and attend once on every device in every dtype."""
    import torch
    from torch.nn import functional

    names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in names:
        for dtype in DTYPES:
            row = {"area": "device", "what": f"{device} {dtype}"}
            kind = getattr(torch, dtype)
            try:
                x = torch.ones(1, 2, 8, 8, dtype=kind, device=device)
                functional.scaled_dot_product_attention(x @ x, x, x).sum().item()
                kernel = torch.ones(2, 2, 3, 3, 3, dtype=kind, device=device)
                functional.conv3d(x[:, :, None].repeat(1, 1, 4, 1, 1), kernel).sum().item()
            except (RuntimeError, NotImplementedError) as error:
                yield {**row, "state": "unsupported", "detail": str(error).splitlines()[0]}
            else:
                yield {**row, "state": "works", "detail": _device_name(device)}


def _device_name(device: str) -> str:
    import torch

    if device == "cpu":
        return f"{torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def main() -> None:
    """Print the rows of the probe that is named on the command line."""
    probes = {"video": video, "metrics": metrics, "devices": devices}
    for row in probes[sys.argv[1]]():
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
