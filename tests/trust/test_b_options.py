"""Kind B: an option hides no fault. What it is meant to change is given to both sides; the rest must
change nothing, and is judged as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import registry
from backends.base import Variant
from harness.api.compare import Places, compare
from harness.config.compose import compose_tree
from harness.config.config import CandidateSpec, RunConfig, build
from harness.config.folders import conf_folders
from harness.judge.effect import LARGEST_SHARE, share_of_unrelated
from harness.records import EQUIVALENT, PairResult
from harness.render.plan import make_plan
from harness.verdict import session
from harness.verdict.matching import match, stage_by_stage
from harness.workers.connect import in_process

SMALL = (
    "case=[micro_2b_quick]", "candidate=[]", "metrics=[psnr]", "judge.rerun=false",
    "reference.threads=1", "judge.probe_seeds=[0,1]", "judge.calibration_seeds=[1000001]",
    "cases.micro_2b_quick.steps=5",
)  # fmt: skip

OTHERS: Mapping[str, Any] = {
    "dtype": "bfloat16", "vae_dtype": "bfloat16", "text_dtype": "bfloat16", "device": "cpu",
    "placement": "model_offload", "use_stream": True, "attention": "math", "vae_tiling": True,
    "vae_slicing": True, "allow_tf32": True, "revision": "other", "variant": "fp16",
    "use_safetensors": False, "checkpoint": "micro-5b", "transformer": "micro-5b",
    "lora": "style", "lora_scale": 0.5, "lora_mode": "fused", "compile": True, "fuse_qkv": True,
    "layerwise_casting": "float8_e5m2", "quantization": "int8", "cache": "pab",
    "config": "other.yaml", "text_encoder": "other", "repo": "other", "inference_config": "other",
    "first_frame": "single",
}  # fmt: skip
"""Another value for every option of every backend."""

MEANT: Mapping[str, frozenset[str]] = {
    "diffusers": frozenset({"vae_tiling", "layerwise_casting", "quantization", "cache"}),
    "sat": frozenset(),
}
"""What changes the result on purpose; the scale of a LoRA does so where there is one."""


def _config(*settings: str) -> RunConfig:
    return build(compose_tree([*SMALL, *settings], conf_folders(None)))


def _candidate(backend: str, **options: Any) -> tuple[RunConfig, CandidateSpec]:
    config = _config(f"+backend@candidates.x={backend}", f"reference={backend}")
    (candidate,) = config.candidates
    return config, candidate.model_copy(update={"options": {**candidate.options, **options}})


@pytest.mark.parametrize("backend", ["diffusers", "sat"])
def test_every_option_is_given_to_both_sides_or_left_to_be_judged(backend: str) -> None:
    """An option without a value in `OTHERS` fails here, so that a new one is thought about."""
    config, plain = _candidate(backend)
    given: set[str] = set()
    for name in plain.options:
        _, candidate = _candidate(backend, **{name: OTHERS[name]})
        matched = match(config.reference, candidate)
        if matched.declared:
            given.add(name)
            assert matched.spec.options[name] == OTHERS[name]
            assert matched.spec.name != config.reference.name
        else:
            assert matched.spec == config.reference
    assert given == MEANT[backend]


def test_the_scale_of_a_lora_is_given_where_both_have_one() -> None:
    config, candidate = _candidate("diffusers", lora="style", lora_scale=0.5)
    alone = match(config.reference, candidate)
    assert alone.spec == config.reference and alone.unmatched == ("lora_scale",)
    assert [e.outcome for e in alone.unscored()] == ["unscored"]
    options = {**config.reference.options, "lora": "style"}
    both = match(config.reference.model_copy(update={"options": options}), candidate)
    assert both.spec.options["lora_scale"] == 0.5 and both.unmatched == ()


def test_an_option_that_the_reference_cannot_have_is_unscored() -> None:
    config = _config("reference=sat", "+backend@candidates.x=diffusers", "candidates.x.cache=pab")
    matched = match(config.reference, config.candidates[0])
    assert matched.unmatched == ("cache",) and matched.spec == config.reference


def test_a_backend_that_declares_nothing_may_change_nothing(monkeypatch: Any) -> None:
    class Plain:
        """A backend of another package, from before."""

    monkeypatch.setattr(registry, "load", lambda _name: Plain())
    config, candidate = _candidate("diffusers", vae_tiling=True)
    assert match(config.reference, candidate).spec == config.reference


def test_the_reference_is_rendered_under_what_a_candidate_declares() -> None:
    """Its own inputs are shared, and the configured reference is rendered, too."""
    config = _config(
        "+backend@candidates.x=diffusers", "candidates.x.cache=pab", "+candidates.x.case.steps=6"
    )
    jobs = make_plan(config).jobs
    plain, under, candidate = jobs
    assert (plain.variant.options["cache"], plain.case.steps) == (None, 5)
    assert (under.variant.options["cache"], under.case.steps) == ("pab", 6)
    assert under.exports and candidate.source == under.source != plain.source
    assert candidate.case == under.case


def test_names_of_long_or_odd_settings_stay_apart() -> None:
    _, one = _candidate("diffusers")
    specs = [one.model_copy(update={"case": {"prompt": text}}) for text in ("a / b", "a ? b")]
    names = {
        match(_config("+backend@candidates.x=diffusers").reference, s).spec.name for s in specs
    }
    assert len(names) == 2 and not any("/" in name for name in names)


def test_stages_are_asked_without_what_acts_across_steps() -> None:
    _, candidate = _candidate("diffusers", cache="pab", vae_tiling=True)
    variant = Variant("x", "diffusers", candidate.options)
    alone = stage_by_stage(variant).options
    assert alone == {**candidate.options, "cache": None}


@pytest.mark.parametrize("damage", ["half black", "exchanged", "noise", "another size"])
def test_an_option_that_makes_another_video_is_no_pass(damage: str) -> None:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:64, 0:64]
    frame = np.stack([rows * 3, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    video = np.repeat(frame[None], 5, axis=0)
    other = video.copy()
    if damage == "half black":
        other[:, :32] = 0
    elif damage == "exchanged":
        other[2] = 255 - other[2]
    elif damage == "noise":
        other = rng.integers(0, 256, video.shape, dtype=np.uint8)
    else:
        other = np.pad(video, ((0, 0), (0, 6), (0, 4), (0, 0)))
    share = share_of_unrelated([video, video], [video, other])
    assert share is None if damage == "another size" else (share or 0.0) > LARGEST_SHARE
    mild = np.clip(video.astype(int) + 4, 0, 255).astype(np.uint8)
    assert (share_of_unrelated([video], [mild]) or 1.0) < LARGEST_SHARE


class _Silent:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


CANDIDATES = {
    "brighter": ("layerwise_casting=float8_e4m3fn", "patch=frames_brighter"),
    "cast": ("layerwise_casting=float8_e4m3fn",),
    "fused_wrong": ("fuse_qkv=true", "patch=fused_too_large"),
    "cached_wrong": ("cache=pab", "patch=guidance_lost_with_the_cache"),
    "cached": ("cache=pab",),
    "tiled": ("vae_tiling=true",),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PairResult]:
    folder = tmp_path_factory.mktemp("options")
    settings = [f"store={folder}/store", f"results={folder}/results"]
    for name, options in CANDIDATES.items():
        settings.append(f"+backend@candidates.{name}=diffusers")
        settings += [f"candidates.{name}.{option}" for option in options]
    plugin = ("tests.trust.option_faults",)
    _, result = session.run(_config(*settings), plugin, (), _Silent(), connect=in_process)
    assert result is not None
    return {pair.candidate: pair for pair in result.pairs}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brighter", "fused_wrong", "cached_wrong", "tiled"])
def test_a_fault_beside_an_option_is_found(pairs: dict[str, PairResult], name: str) -> None:
    """`tiled` is Diffusers' own: on this VAE tiles make 70x68 px of 64x64."""
    assert pairs[name].verdict in ("bug", "broken"), pairs[name].reasons


@pytest.mark.slow
def test_the_fault_and_not_the_option_is_named(pairs: dict[str, PairResult]) -> None:
    assert pairs["brighter"].findings[0].component == "decoder"
    assert pairs["fused_wrong"].findings[0].block == "transformer.transformer_blocks.1.attn1"


@pytest.mark.slow
def test_an_option_without_a_fault_is_named_and_its_effect_stated(
    pairs: dict[str, PairResult],
) -> None:
    assert pairs["fused_wrong"].effect is None
    cast, cached = pairs["cast"], pairs["cached"]
    assert cast.verdict == "approximation", cast.reasons
    assert cached.verdict in ("approximation", "inconclusive"), cached.reasons
    for pair, setting in ((cast, "layerwise_casting=float8_e4m3fn"), (cached, "cache=pab")):
        assert pair.effect is not None and pair.effect.declared == [setting]
        assert pair.effect.share is not None and pair.effect.share > 0
        assert any(
            setting in reason and "changes the video by" in reason for reason in pair.reasons
        )


def _unprobed(root: Path, cache: str) -> PairResult:
    """The verdict of renders alone on a candidate with `cache`."""
    config = _config(
        "judge.probe=false", "+backend@candidates.x=diffusers", f"candidates.x.cache={cache}",
        f"store={root}/store", f"results={root}/results",
    )  # fmt: skip
    _, result = session.run(config, (), (), _Silent(), connect=in_process)
    assert result is not None
    (pair,) = result.pairs
    return pair


@pytest.mark.slow
def test_what_is_declared_is_named_without_probes_too(tmp_path: Path) -> None:
    pair = _unprobed(tmp_path, "pab")
    assert pair.effect is not None and pair.effect.declared == ["cache=pab"]
    assert pair.verdict in ("approximation", "inconclusive")
    assert any(f.kind == "approximation" and f.declared for f in pair.findings)


@pytest.mark.slow
def test_an_option_that_never_acted_is_no_pass(tmp_path: Path) -> None:
    """The first-block cache skips nothing in five steps, so that nothing is known of what it does."""
    pair = _unprobed(tmp_path, "first_block")
    assert pair.effect is not None and pair.effect.share == 0
    assert pair.verdict == "inconclusive"
    assert "the option never acted here" in pair.reasons[-1]


@pytest.mark.slow
def test_two_objects_are_judged_as_they_are(tmp_path: Path) -> None:
    """The name under which an object is lent is no option that a user set."""
    from diffusers import DiffusionPipeline

    from backends.micro import checkpoint_path

    def opened(gain: float) -> Any:
        pipe = DiffusionPipeline.from_pretrained(str(checkpoint_path("micro-2b")))
        state = {"calls": 0}

        def act(_module: Any, _arguments: Any, output: Any) -> Any:
            state["calls"] += 1
            return (output[0] * gain,) if state["calls"] <= 13 else output

        pipe.transformer.register_forward_hook(act)
        return pipe

    found = compare(
        opened(1.0), opened(1.02), case={"steps": 5, "model": "micro-2b"}, seeds=[0],
        places=Places(tmp_path / "results", tmp_path / "store"),
        settings=["metrics=[psnr]", "judge.rerun=false", "judge.probe_seeds=[0,1]",
                  "judge.calibration_seeds=[1000001]"],
    )  # fmt: skip
    assert found.pair.verdict == "bug" and found.pair.verdict not in EQUIVALENT
    assert found.pair.effect is None
