"""The metrics: beside other libraries, against the number of candidates, frames and pixels, and memory.

    python tests/benchmarks/metrics.py [--rounds 3]

Needs the extra `bench`. What is compared runs in turns in one process; ratios are medians over rounds,
of which the slow ones (other libraries) have a third.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from rows import Row, in_turns, met, met_twice, ratio, say, typical

from harness.metrics import examine, metric_names, score_candidates, score_pair
from harness.render.frames import StoredVideo, write_lossless

AREA = "metrics"
FRAMES, HEIGHT, WIDTH = 49, 480, 720
BOTH = {"psnr": {}, "ssim": {}}
LIGHT = {name: {} for name in metric_names() if "lpips" not in name}
LPIPS = {"lpips_alex_untrained": {}}
CANDIDATES = 8
CHUNK = 7
"""Frames that torch's libraries get at a time: a whole video at once takes them some GiB."""


def clip(frames: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(frames, height, width, 3) uint8: a smooth texture that moves by (1, 2) px a frame."""
    noise = np.random.default_rng(0).standard_normal(
        (height + frames, width + 2 * frames, 3), dtype=np.float32
    )
    canvas = cv2.GaussianBlur(noise, (0, 0), 3.0)
    canvas = np.rint(np.clip(128 + 40 * canvas / canvas.std(), 0, 255)).astype(np.uint8)
    return np.stack([canvas[t : t + height, 2 * t : 2 * t + width] for t in range(frames)])


def noisy(frames: np.ndarray, seed: int) -> np.ndarray:
    """The same video with another pattern of noise, 3 grey levels strong."""
    pattern = np.random.default_rng(seed).normal(0, 3, frames.shape[1:])
    return np.stack([np.clip(f + pattern, 0, 255).astype(np.uint8) for f in frames])


def beside_others(rounds: int) -> Iterator[Row]:
    """PSNR and SSIM of one pair, and what others take for SSIM."""
    pair = clip(FRAMES), noisy(clip(FRAMES), 1)
    runs: dict[str, Callable[[], object]] = {"ours": lambda: score_pair(*pair, BOTH)}
    runs["scikit-image"] = functools.partial(_by_skimage, *pair)
    for name, call in (("torchmetrics", _by_torchmetrics), ("pytorch-msssim", _by_msssim)):
        if importlib.util.find_spec(name.replace("-", "_")):
            runs[name] = functools.partial(_in_chunks, call, *pair)
        else:
            yield Row(AREA, f"{name}: SSIM", "not installed")
    with tempfile.TemporaryDirectory() as folder:
        for name, video in zip("ab", pair, strict=True):
            (Path(folder) / name).write_bytes(video.tobytes())
        runs["ffmpeg"] = functools.partial(_by_ffmpeg, Path(folder))
        found = in_turns(runs, rounds)
    size = f"{FRAMES}x{HEIGHT}x{WIDTH}"
    ours = typical(found["ours"])
    yield Row(AREA, f"PSNR and SSIM of one {size} pair", f"{ours:.2f} s")
    targets = {"torchmetrics": 3.0, "scikit-image": 5.0}
    notes = {"ffmpeg": "psnr and ssim filters, raw video in; its SSIM is another: 8x8 blocks"}
    for name in runs:
        if name == "ours":
            continue
        times, least = ratio(found, name, "ours"), targets.get(name)
        what = f"{name}, {notes.get(name, 'SSIM alone')}: its time / ours"
        yield Row(
            AREA, what, f"{times:.2f} x ({typical(found[name]):.1f} s)",
            f"at least {least:g} x" if least else "", "" if least is None else met(times >= least),
        )  # fmt: skip


def _by_skimage(a: np.ndarray, b: np.ndarray) -> list[float]:
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [
        structural_similarity(x, y, channel_axis=-1, data_range=255, **settings)
        for x, y in zip(a, b, strict=True)
    ]


def _in_chunks(call: Callable[..., object], a: np.ndarray, b: np.ndarray) -> None:
    import torch

    for start in range(0, len(a), CHUNK):
        x, y = (
            torch.from_numpy(v[start : start + CHUNK]).permute(0, 3, 1, 2).float() for v in (a, b)
        )
        call(x, y)


def _by_torchmetrics(x: object, y: object) -> object:
    from torchmetrics.functional.image import structural_similarity_index_measure

    return structural_similarity_index_measure(x, y, data_range=255.0)


def _by_msssim(x: object, y: object) -> object:
    from pytorch_msssim import ssim

    return ssim(x, y, data_range=255.0)


def _by_ffmpeg(folder: Path) -> None:
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-i"]
    graph = "[0][1]psnr[p];[p][1]ssim"
    line = [*source, str(folder / "a"), *source, str(folder / "b"), "-lavfi", graph]
    command = [get_ffmpeg_exe(), "-v", "error", *line, "-f", "null", "-"]
    subprocess.run(command, check=True)


def beside_lpips(rounds: int) -> Iterator[Row]:
    """LPIPS of a reference and two candidates, against the package frame by frame; and its passes."""
    import torch

    from harness.metrics import lpips_model  # torch, which the other measurements do without

    frames = clip(3)
    others = {str(seed): noisy(frames, seed) for seed in range(2)}
    model = lpips_model.untrained_model(0)
    scaled = {
        name: torch.from_numpy(video.astype(np.float32) / 127.5 - 1.0).permute(0, 3, 1, 2)
        for name, video in {"reference": frames, **others}.items()
    }

    def package() -> None:
        with torch.no_grad():
            for name in others:
                for x, y in zip(scaled["reference"], scaled[name], strict=True):
                    model(x[None], y[None])

    runs = {"ours": lambda: score_candidates(frames, others, LPIPS), "lpips": package}
    found = in_turns(runs, rounds)
    yield Row(AREA, "`lpips` package, two candidates: its time / ours",
              f"{ratio(found, 'lpips', 'ours'):.2f} x")  # fmt: skip
    passes: list[int] = []
    hook = model.get_submodule("net").register_forward_hook(lambda *_: passes.append(1))
    many = {str(seed): noisy(frames, seed) for seed in range(CANDIDATES)}
    score_candidates(frames, many, LPIPS)
    hook.remove()
    each = len(passes) / (len(frames) * (1 + CANDIDATES))
    yield Row(AREA, f"LPIPS passes of a frame through the backbone, {CANDIDATES} candidates",
              f"{each:g}", "1", met(each == 1))  # fmt: skip


def against_candidates(rounds: int) -> Iterator[Row]:
    """All metrics but LPIPS, for one to eight candidates."""
    frames = clip(25)
    others = {str(seed): noisy(frames, seed) for seed in range(CANDIDATES)}

    def score(count: int) -> None:
        score_candidates(frames, dict(list(others.items())[:count]), LIGHT)

    counts = (1, 2, 4, CANDIDATES)
    runs = {str(n): functools.partial(score, n) for n in counts}
    found = in_turns(runs, rounds)
    yield Row(AREA, "all metrics but LPIPS, one candidate, 480x720, a frame",
              f"{1000 * typical(found['1']) / len(frames):.0f} ms")  # fmt: skip
    for count in counts[1:]:
        wall, cpu = (ratio(found, str(count), "1", of) for of in ("wall", "cpu"))
        last = count == CANDIDATES
        yield Row(
            AREA, f"{count} candidates / one candidate",
            f"{wall:.2f} x on the clock, {cpu:.2f} x in seconds of computing",
            "at most 4 x" if last else "", met_twice(wall <= 4, cpu <= 4) if last else "",
        )  # fmt: skip


def against_size(rounds: int) -> Iterator[Row]:
    """All metrics but LPIPS, one candidate: a frame's time by its size and its video's length."""
    sizes = (13, 240, 360), (13, 480, 720), (49, 480, 720), (13, 768, 1360)
    cases = {size: (clip(*size), noisy(clip(*size), 1)) for size in sizes}
    runs = {
        f"{t}x{h}x{w}": functools.partial(score_pair, *pair, LIGHT)
        for (t, h, w), pair in cases.items()
    }
    found = in_turns(runs, rounds)
    for (t, h, w), name in zip(cases, runs, strict=True):
        per_frame = 1000 * typical(found[name], "cpu") / t
        yield Row(AREA, f"{name}, seconds of computing a frame",
                  f"{per_frame:.0f} ms, {per_frame / (h * w) * 1e6:.0f} ns a pixel")  # fmt: skip


def memory() -> Iterator[Row]:
    """Peak memory of a process that scores and reads stored videos, by their number and length."""
    with tempfile.TemporaryDirectory() as name:
        folder, peaks = Path(name), {}
        longest = clip(97, 480, 720)
        for frames in (13, 49, 97):
            write_lossless(folder / f"{frames}.mkv", longest[:frames], 8)
        for frames, candidates in ((13, 1), (49, 1), (97, 1), (49, CANDIDATES)):
            line = [sys.executable, __file__, "--peak", str(folder / f"{frames}.mkv")]
            done = subprocess.run(
                [*line, str(candidates)], capture_output=True, text=True, check=True
            )
            peaks[frames, candidates] = float(done.stdout)
            note = f"{frames} frames, {candidates} candidate(s)"
            print(note, peaks[frames, candidates], file=sys.stderr)
    lengths = [peaks[frames, 1] for frames in (13, 49, 97)]
    spread = max(lengths) / min(lengths)
    yield Row(
        AREA, "peak memory at 13 / 49 / 97 frames of 480x720, all metrics but LPIPS, and readings",
        " / ".join(f"{peak:.0f}" for peak in lengths) + " MiB", "independent of the frames (10 %)",
        met(spread <= 1.1),
    )  # fmt: skip
    yield Row(AREA, f"the same, 49 frames, {CANDIDATES} candidates",
              f"{peaks[49, CANDIDATES]:.0f} MiB")  # fmt: skip


def _peak(path: str, candidates: str) -> None:
    video = StoredVideo.open(Path(path))
    examine(video, {str(n): video for n in range(int(candidates))}, LIGHT)
    # Linux: getrusage would count what the parent held when it started this process
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    """Measure all, print JSON."""
    if sys.argv[1:2] == ["--peak"]:
        return _peak(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    say([
        *memory(),
        *against_candidates(rounds),
        *beside_others(max(1, rounds // 3)),
        *beside_lpips(rounds),
        *against_size(rounds),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
