"""One made-up run with a pair of every verdict, its full chain of evidence, and a planted RoPE fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthetic_runs import (
    STEPS,
    Synthetic,
    clip,
    distance,
    lpips_result,
    perturbed,
    psnr_result,
    ssim_result,
)

from harness.records import (
    BlockDistance,
    Evidence,
    Finding,
    PipelineRecord,
    Share,
    VerdictName,
)

PARTS = ("norm1", "attn1.to_q", "attn1.norm_q", "attn1.rope", "attn1", "ff")
FAULTY_BLOCK = "transformer_blocks.0.attn1.rope"


def healthy_chain(scale: float = 1.0) -> list[Evidence]:
    """Every check of the procedure, and none of them differs."""
    return [
        Evidence(stage="exact", check="weights", outcome="agrees",
                 detail="All 214 tensors are equal after canonical naming and layout."),
        Evidence(stage="exact", check="schedule", component="schedule", outcome="agrees",
                 detail="12 timesteps and alpha_bar agree.", value=0.0, limit=1e-12,
                 unit="relative"),
        Evidence(stage="collapse", check="up-cast collapse", component="transformer",
                 outcome="agrees", value=3.1e-7 * scale, limit=2.2e-6, unit="relative L2",
                 healthy=[2.4e-7, 3.9e-7, 4.4e-7, 5.5e-7], step=11, seed=1,
                 detail="Both in float32, the prediction differs as rounding does."),
        Evidence(stage="oracle", check="oracle ratio", component="transformer", outcome="agrees",
                 value=1.04 * scale, limit=1.25, healthy=[0.97, 1.0, 1.02, 1.06], step=3, seed=0,
                 detail="As close to the float32 oracle as the reference itself is."),
        Evidence(stage="free", check="PSNR", component="frames", outcome="noted", value=71.0,
                 limit=52.0, healthy=[66.0, 70.0, 74.0], unit="dB", higher_is_worse=False,
                 detail="Free-running renders, worst frame."),
    ]  # fmt: skip


def rope_chain() -> list[Evidence]:
    """What a transformer without rotary embeddings leaves behind."""
    return [
        Evidence(stage="exact", check="weights", outcome="agrees",
                 detail="All 214 tensors are equal after canonical naming and layout."),
        Evidence(stage="exact", check="rotary table", component="transformer", outcome="unscored",
                 detail="The candidate exposes no rotary table, so it could not be compared."),
        Evidence(stage="collapse", check="up-cast collapse", component="transformer",
                 outcome="differs", value=0.183, limit=2.2e-6, unit="relative L2",
                 healthy=[2.4e-7, 3.9e-7, 4.4e-7, 5.5e-7], step=0, seed=1,
                 detail="In float32 the guided prediction still differs by 18 %: rounding falls by"
                 " 2^15 from bfloat16 to float32, this does not fall."),
        Evidence(stage="collapse", check="up-cast collapse", component="text", outcome="agrees",
                 value=1.1e-7, limit=1.4e-6, healthy=[0.9e-7, 1.3e-7, 1.6e-7],
                 unit="relative L2", detail="The text encoder agrees to rounding.", step=0, seed=0),
        Evidence(stage="collapse", check="up-cast collapse", component="decoder", outcome="agrees",
                 value=2.0e-7, limit=1.9e-6, healthy=[1.9e-7, 2.5e-7, 4.0e-7],
                 unit="relative L2", detail="The VAE decoder agrees to rounding.", seed=1),
        Evidence(stage="free", check="PSNR", component="frames", outcome="noted", value=13.2,
                 limit=52.0, healthy=[66.0, 70.0, 74.0], unit="dB", higher_is_worse=False,
                 detail="Free-running renders, worst frame."),
    ]  # fmt: skip


def scan(faulty: bool) -> list[BlockDistance]:
    """Two blocks at two steps; from the first block's rotation on over the limit, or nowhere."""
    found: list[BlockDistance] = []
    for step in (0, STEPS - 1):
        for block in range(4):
            for position, part in enumerate(PARTS):
                over = faulty and (block, position) >= (0, 3)
                value = 0.02 * (1 + block) if over else 2e-7 * (1 + block + position / 6)
                module = f"transformer_blocks.{block}.{part}"
                found.append(BlockDistance(module=module, step=step, value=value, limit=2e-6))
    return found


def pipeline(**differences: Any) -> PipelineRecord:
    """An opened pipeline; `weights` are changed digests by name, `configs` changed keys."""
    names = [f"transformer.transformer_blocks.{b}.{p}.weight" for b in range(4) for p in PARTS]
    names += [f"vae.decoder.conv.{i}.weight" for i in range(6)] + ["text_encoder.shared.weight"]
    weights = dict.fromkeys(names, "0" * 64) | differences.get("weights", {})
    configs = {"transformer.use_rotary_positional_embeddings": True, "vae.scaling_factor": 0.7}
    return PipelineRecord(
        weights=weights,
        dtypes={"transformer": "bfloat16", "vae": "float32"},
        configs=configs | differences.get("configs", {}),
        policies={"schedule": "trailing"},
    )


def gallery(root: Path) -> Synthetic:
    """Two cases, seven candidates, every verdict."""
    run = Synthetic(root)
    cases = {"circle_left": clip(9, 64, 64)[::-1].copy(), "circle_right": clip(9, 64, 64)}
    for case, video in cases.items():
        videos = {0: video, 1: video[:, ::-1].copy()}
        own = pipeline()
        reference = {
            s: run.render("diffusers", s, v, prompt=case, pipeline=own, render_s=2.1)
            for s, v in videos.items()
        }

        def add(
            verdict: VerdictName,
            candidate: str,
            amount: int,
            final: float,
            chain: Sequence[Evidence],
            case: str = case,
            videos: dict[int, Any] = videos,
            reference: dict[int, str] = reference,
            render_s: float = 2.0,
            opened: PipelineRecord | None = None,
            **more: Any,
        ) -> None:
            shown = {s: perturbed(v, amount, s) if amount else v for s, v in videos.items()}
            renders = {
                s: run.render(candidate, s, v, prompt=case, render_s=render_s,
                              pipeline=opened or pipeline(), preview=verdict == "bug")
                for s, v in shown.items()
            }  # fmt: skip
            run.pair(
                verdict,
                candidate,
                case=case,
                reference="diffusers",
                seeds=(0, 1),
                renders={"reference": reference, "candidate": renders},
                distances=[distance(s, final * (1 + s)) for s in videos],
                floor=[distance(s, 0.0) for s in videos],
                scores={
                    "psnr": [psnr_result(videos[s], shown[s]) for s in videos],
                    "ssim": [ssim_result(1.0 - amount / 200) for _ in videos],
                    "lpips": [lpips_result(amount / 100) for _ in videos],
                },
                floor_scores={
                    "psnr": [psnr_result(perturbed(v, 1, s), v) for s, v in videos.items()],
                    "ssim": [ssim_result(0.999 - s / 1000) for s in videos],
                },
                evidence=list(chain),
                **more,
            )

        add("bit_exact", "diffusers_model_offload", 0, 0.0, healthy_chain(0.0), render_s=3.3,
            summary="Latents and frames are equal in every bit over 2 seeds.")  # fmt: skip
        add("bit_exact", "diffusers_sequential_offload", 0, 0.0, healthy_chain(0.0), render_s=9.8,
            summary="Latents and frames are equal in every bit over 2 seeds.")  # fmt: skip
        if case == "circle_left":
            add("rounding", "sat", 1, 2.1e-6, healthy_chain(), blocks=scan(False),
                summary="Same mathematics: every local difference is healthy rounding.")  # fmt: skip
            add("bug", "sat_no_rope", 40, 0.31, rope_chain(), blocks=scan(True),
                opened=pipeline(configs={"transformer.use_rotary_positional_embeddings": False},
                                weights={"transformer.transformer_blocks.0.ff.weight": "1" * 64}),
                shares=[Share(component="transformer", share=0.97, low=0.93, high=1.04),
                        Share(component="solver", share=0.05, low=-0.01, high=0.08),
                        Share(component="decoder", share=-0.02, low=-0.05, high=0.01)],
                findings=[Finding(
                    kind="block", name=FAULTY_BLOCK, component="transformer", block=FAULTY_BLOCK,
                    share=0.97, reference="rotated", candidate="not rotated",
                    detail="The query and key of block 0 are not rotated: no rotary position"
                    " embedding reaches the attention.",
                    remedy="Set transformer.use_rotary_positional_embeddings to true in the"
                    " candidate's config.json.")],
                summary="bug: the transformer computes something else. In float32, on equal inputs,"
                " its prediction differs by 18 % where healthy members stay below 2.2e-06; the first"
                " module that differs is transformer_blocks.0.attn1.rope at step 0.")  # fmt: skip
        else:
            add("chaotic", "sat", 3, 0.012, healthy_chain(),
                summary="Same mathematics; sampling amplifies rounding in its budget.")  # fmt: skip
            add("policy", "sat_native", 6, 0.05, healthy_chain(),
                findings=[Finding(kind="policy", name="unconditional", component="text",
                                  reference="empty prompt", candidate="zeros",
                                  known="unconditional_branch", share=1.0,
                                  detail="unconditional is 'zeros'; the reference has 'empty prompt'")],
                summary="Different on purpose: SAT's unconditional embedding is zeros.")  # fmt: skip
            add("inconclusive", "sat_float16", 2, 0.004, healthy_chain()[:3],
                summary="Compared, different; 2 seeds do not decide, about 6 more would.")  # fmt: skip
            add("broken", "sat_no_rope", 90, math.nan, [
                Evidence(stage="free", check="finite values", component="decoder",
                         outcome="differs", value=math.nan, limit=0.0, healthy=[0.0],
                         detail="Not finite from step 4 on.", step=4, seed=0)],
                summary="broken: the candidate is not finite from step 4 on.")  # fmt: skip
    run.pair("unsupported", "diffusers_group_offload", case="circle_left", reference="diffusers",
             reasons=["accelerate 0.20 has no group offload; install accelerate>=1.2."])  # fmt: skip
    failed = run.render("sat_crash", 0, None, status="error", message="out of memory")
    run.pair("error", "sat_crash", case="circle_left", reference="diffusers",
             reasons=["The worker died during `render` (signal SIGKILL)."],
             renders={"candidate": {0: failed}})  # fmt: skip
    run.pair("not_run", "sat_crash", case="circle_right", reference="diffusers",
             reasons=["The reference gave no inputs to share."])  # fmt: skip
    return run
