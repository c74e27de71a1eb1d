"""Incidents that users reported: reproduced, and diagnosed without a hint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.audit.hazards import hazards
from harness.config.compose import compose_tree
from harness.config.config import RunConfig, build
from harness.config.folders import conf_folders
from harness.errors import EXIT_DIFFERENT
from harness.localize.bisection import bisect
from harness.records import PairResult
from harness.render.frames import read_frames
from harness.store.store import Store
from harness.verdict import session
from harness.workers.connect import in_process

pytestmark = pytest.mark.slow

_SMALL = (
    "metrics=[psnr]", "judge.rerun=false", "reference.threads=1",
    "judge.probe_seeds=[0,1]", "judge.calibration_seeds=[1000001]",
)  # fmt: skip
"""One process, few seeds: enough for faults of this size, and a tenth of the time."""


class _Silent:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def _places(folder: Path) -> list[str]:
    return [f"store={folder}/store", f"results={folder}/results"]


def _configuration(incident: str, folder: Path, *settings: str) -> RunConfig:
    overrides = [f"experiment=incident/{incident}", *_places(folder), *_SMALL, *settings]
    return build(compose_tree(overrides, conf_folders(None)))


def _run(config: RunConfig) -> dict[str, PairResult]:
    """What `parity run` makes of it, in this process: the pairs by candidate."""
    _, result = session.run(config, (), ("parity", "run"), _Silent(), connect=in_process)
    assert result is not None and result.exit_code == EXIT_DIFFERENT
    assert result.hazards == hazards(config)
    return {pair.candidate: pair for pair in result.pairs}


def _checks(pair: PairResult, check: str) -> list[tuple[str, str]]:
    return [(e.outcome, e.detail) for e in pair.evidence if e.check == check]


def _shift(words: Sequence[str], word: str) -> float:
    """By how many per cent the videos are "noisier", "blurrier", ... than the reference's."""
    (found,) = [said for said in words if said.startswith(f"{word} by ")]
    return float(found.rpartition(" ")[2].rstrip("%"))


def _steepest(config: RunConfig, pair: PairResult, role: str) -> float:
    """Grey levels a pixel across the steepest edges, which blur makes flatter: 99.5th percentile."""
    folder = Store(config.store).render_folder(pair.renders[role][pair.seeds[0]])
    luma = read_frames(folder / "frames.mkv") @ np.array([0.299, 0.587, 0.114])
    return float(np.percentile(np.hypot(*np.gradient(luma, axis=(1, 2))), 99.5))


def test_fp16_black(tmp_path: Path) -> None:
    """Black video in float16: the block and the step of the overflow; bfloat16 comes out clean."""
    config = _configuration("fp16_black", tmp_path)
    (warning,) = [h for h in hazards(config) if h.name == "candidates.float16.dtype"]
    assert "the video black" in warning.detail
    pairs = _run(config)
    half, brain = pairs["float16"], pairs["bfloat16"]
    assert half.verdict == "broken"
    cause = half.findings[0]
    assert cause.component == "transformer"
    assert cause.block is not None
    assert cause.block.startswith("transformer.transformer_blocks.2.attn1")
    assert "the dtype cannot hold its values" in cause.detail and "step 0" in cause.detail
    assert brain.verdict == "rounding"


def test_local_vs_space(tmp_path: Path) -> None:
    """Three settings differ; two carry the gap, their shares sum to it, offload has none."""
    config = _configuration("local_vs_space", tmp_path)
    found = bisect(config, (), connect=in_process)
    assert set(found.culprits) == {"case.sampler", "case.dynamic_guidance"}
    shares = {row.key: row.share for row in found.rows}
    assert sum(share or 0.0 for share in shares.values()) == pytest.approx(1.0)
    assert shares["options.placement"] == shares["backend"] == 0.0
    assert found.neighbour_agrees and found.probes <= 40


def test_sat_vs_diffusers_quality(tmp_path: Path) -> None:
    """SAT in float16 is worse than Diffusers: the precision is named, and in float32 it agrees."""
    pairs = _run(_configuration("sat_vs_diffusers_quality", tmp_path))
    half, whole = pairs["sat_float16"], pairs["sat_float32"]
    assert half.verdict in ("bug", "broken")
    cause = half.findings[0]
    assert cause.component == "transformer"
    assert "the dtype cannot hold its values" in cause.detail
    assert len(half.seeds) > 1, "one seed says nothing of how much is sampling"
    assert whole.verdict in ("rounding", "policy", "chaotic"), whole.reasons


def test_sat2hf_blur(tmp_path: Path) -> None:
    """A converted 5B is blurred: not its weights, but the VAE's factor, which is the 2B's."""
    config = _configuration("sat2hf_blur", tmp_path, "cases.micro_5b_quick.steps=4")
    (warning,) = hazards(config)
    assert warning.name == "vae.scaling_factor" and "candidates.converted" in warning.detail
    pairs = _run(config)
    blurred = pairs["converted"]
    assert blurred.verdict == "bug"
    assert _shift(blurred.quality, "less contrast") > 10
    assert _shift(blurred.quality, "less colourful") > 10
    sharp, soft = (_steepest(config, blurred, role) for role in ("reference", "candidate"))
    assert soft < 0.92 * sharp
    cause = blurred.findings[0]
    assert (cause.component, cause.name) == ("decoder", "vae.scaling_factor")
    assert (cause.reference, cause.candidate) == (0.7, 1.15258426)
    ((outcome, said),) = _checks(blurred, "exact.checkpoint")
    # The suspect, that the VAE lost precision, is disproved in the same sentence.
    assert outcome == "noted" and "that of CogVideoX-2B" in said
    count = said.partition(" of ")[0].rpartition(" ")[2]
    assert f"{count} of {count} tensors identical up to layout" in said
    for clean in ("transformer_alone", "converted_again"):
        assert pairs[clean].verdict == "bit_exact"
        ((outcome, said),) = _checks(pairs[clean], "exact.checkpoint")
        assert outcome == "agrees" and "equal in every bit" in said


def test_zero_lr_finetune_noise(tmp_path: Path) -> None:
    """Fine-tuned at learning rate 0, and noise: the learned positions are not those before."""
    steps = "cases.micro_5b_i2v_quick.steps=4"
    pairs = _run(_configuration("zero_lr_finetune_noise", tmp_path, steps))
    noise = pairs["finetuned"]
    assert noise.verdict in ("bug", "broken")
    assert _shift(noise.quality, "noisier") > 100
    cause = noise.findings[0]
    assert cause.component == "transformer"
    assert "transformer.patch_embed.pos_embedding" in cause.name + cause.detail
    ((outcome, said),) = _checks(noise, "exact.checkpoint")
    assert outcome == "noted" and "pos_embedding" in said
    # Nothing else changed: that is proved, too.
    equal, of = said.partition(" tensors")[0].rpartition(": ")[2].split(" of ")
    assert int(equal) == int(of) - 1
    again = pairs["finetuned_again"]
    assert again.verdict == "bit_exact"
    assert [outcome for outcome, _ in _checks(again, "exact.checkpoint")] == ["agrees"]
