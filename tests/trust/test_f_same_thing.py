"""Kind F: one thing twice is said, names are those that were asked for, and unsupported is no pass."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from backends import registry
from backends.base import Variant
from backends.errors import InvalidRequest
from backends.worker import patches
from harness import report
from harness.config.compose import compose_tree
from harness.config.config import RunConfig, build
from harness.config.folders import conf_folders
from harness.records import RunResult
from harness.verdict import session
from harness.verdict.matching import stage_by_stage
from harness.verdict.repetition import with_repetition_said
from harness.workers.connect import in_process
from tests.report.synthetic_runs import Synthetic
from tests.selftest.catalogue import faults
from tests.selftest.row import Fault

pytest_plugins = ("pytester",)

TINY = ("cases.micro_2b_quick.steps=2", "cases.micro_2b_quick.sampler=ddim",
        "judge.probe=false", "judge.shares=false", "metrics=psnr", "match=native")  # fmt: skip


class Silent:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def config(root: Path, *overrides: str) -> RunConfig:
    chosen = ["case=[micro_2b_quick]", "reference=diffusers", "candidate=[]", *TINY, *overrides]
    tree = compose_tree(chosen, conf_folders(None))
    return build({**tree, "store": str(root / "store"), "results": str(root / "results")})


def ran(config: RunConfig) -> tuple[Path, RunResult]:
    folder, result = session.run(config, (), ("parity",), Silent(), connect=in_process)
    assert result is not None
    return folder, result


def adding(*names: str) -> list[str]:
    return [f"+backend@candidates.{name}=diffusers" for name in names]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """Two candidates of equal content, in a store that holds the same renders under other names."""
    root = tmp_path_factory.mktemp("twins")
    before = config(root, *adding("formerly"))
    ran(before.model_copy(update={"results": root / "earlier"}))
    wanted = config(root, *adding("second", "third"), "reference.name=base")
    case = replace(wanted.cases[0], name="renamed")
    folder, result = ran(wanted.model_copy(update={"cases": (case,)}))
    report.write(folder, root / "store")
    return folder, result


def test_names_are_those_of_the_plan(twins: tuple[Path, RunResult]) -> None:
    folder, result = twins
    asked = [("renamed", "base", "second"), ("renamed", "base", "third")]
    assert [(p.case, p.reference, p.candidate) for p in result.pairs] == asked
    cases = ElementTree.parse(folder / "junit.xml").getroot().iter("testcase")
    assert {(case.get("classname"), case.get("name")) for case in cases} == {
        ("parity.renamed", "second vs base"),
        ("parity.renamed", "third vs base"),
    }
    written = [folder / "verdict.json", folder / "report.md", *folder.rglob("*.html")]
    for path in [*written, folder / "junit.xml"]:
        assert "formerly" not in path.read_text(), path
        assert "micro_2b_quick" not in path.read_text(), path
    for name in ("second", "third"):
        assert (
            f"{name} against base" in next(p for p in result.pairs if p.candidate == name).summary
        )


def test_one_variant_twice_is_said(twins: tuple[Path, RunResult]) -> None:
    folder, result = twins
    for pair in result.pairs:
        assert "the same variant: nothing was compared but repeatability" in pair.reasons[0]
        assert pair.reasons[0] in pair.summary
    assert (folder / "junit.xml").read_text().count("nothing was compared but repeatability") == 2


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("candidates.x.threads=1", False),
        ("candidates.x.vae_tiling=true", False),
        ("+candidates.x.case={guidance_scale: 5.0}", False),
        ("+candidates.x.match={schedule: shared}", True),
    ],
)
def test_whatever_is_set_otherwise_makes_two_variants(
    tmp_path: Path, override: str, same: bool
) -> None:
    """A match says what is shared, and not what is run."""
    pair = Synthetic(tmp_path).pair("rounding", "x", reasons=["as measured"])
    (said,) = with_repetition_said(config(tmp_path, *adding("x"), override), [pair], False)
    assert said.reasons[-1] == "as measured"
    assert (len(said.reasons) == 2) is same


def test_a_pair_that_cannot_exist_is_no_pass_unless_allowed(tmp_path: Path) -> None:
    lacking = [*adding("good", "bad"), "candidates.bad.attention=efficient"]
    folder, result = ran(config(tmp_path, *lacking))
    assert [pair.verdict for pair in result.pairs] == ["bit_exact", "unsupported"]
    assert result.exit_code == 3
    report.write(folder, tmp_path / "store")
    assert ElementTree.parse(folder / "junit.xml").getroot().find(".//error") is not None
    _, allowed = ran(config(tmp_path, *lacking, "judge.allow_unsupported=true"))
    assert allowed.exit_code == 0
    alone = [*adding("bad"), "candidates.bad.attention=efficient", "judge.allow_unsupported=true"]
    assert ran(config(tmp_path, *alone))[1].exit_code == 3, "nothing was compared at all"


def _misspelt_module(pipeline: Any) -> None:
    for name, module in pipeline.modules().items():
        if name.endswith("atn1"):
            module.register_forward_hook(lambda *_: None)


def _misspelt_attribute(pipeline: Any) -> None:
    pipeline.native().transformer.scailing = 2.0
    pipeline.native().vae.use_tilling = True


def _misspelt_setting(pipeline: Any) -> None:
    pipeline.native().transformer.register_to_config(use_rotary_positional_embedings=False)


def _false_condition(pipeline: Any) -> None:
    if pipeline.native().transformer.config.num_layers > 1000:
        pipeline.native().transformer.proj_out.weight.data.mul_(2)


def _times_one(pipeline: Any) -> None:
    pipeline.native().transformer.proj_out.weight.data.mul_(1.0)


def _copied(pipeline: Any) -> None:
    part = pipeline.native().transformer.proj_out
    part.weight = torch.nn.Parameter(part.weight.detach().clone())


IDLE = [_misspelt_module, _misspelt_attribute, _misspelt_setting, _false_condition, _times_one,
        _copied, lambda pipeline: None, lambda pipeline: pipeline]  # fmt: skip


def _hidden_write(pipeline: Any) -> None:
    pipeline.native().transformer.proj_out.weight.data[0, 0] += 1e-3


def _own_method(pipeline: Any) -> None:
    scheduler = pipeline.native().scheduler
    scheduler.step = functools.partial(type(scheduler).step, scheduler)


def _known_setting(pipeline: Any) -> None:
    pipeline.native().transformer.register_to_config(use_rotary_positional_embeddings=True)


def _hook(pipeline: Any) -> None:
    pipeline.modules()["transformer.proj_out"].register_forward_hook(lambda *_: None)


def _stack_function(pipeline: Any) -> None:
    module = sys.modules[type(pipeline.native()).__module__]
    name = "retrieve_timesteps"
    setattr(module, name, functools.wraps(getattr(module, name))(lambda *a, **k: None))


def _memory_format(pipeline: Any) -> None:
    pipeline.native().vae.decoder.conv_in.conv.to(memory_format=torch.channels_last_3d)


def _thread(pipeline: Any) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


@pytest.fixture(scope="module")
def idle_pipeline() -> Any:
    pipeline = registry.load("diffusers").open("micro-2b", {"device": "cpu", "dtype": "float32"})
    yield pipeline
    pipeline.close()


def _applied(function: Any, pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "_registered", {"tried": function})
    patches.apply("tried", pipeline)


@pytest.mark.parametrize("function", IDLE)
def test_a_patch_that_changed_nothing_is_an_error(
    function: Any, idle_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match=r"'tried' changed nothing: .* Check the names"):
        _applied(function, idle_pipeline, monkeypatch)


def test_a_patch_may_idle_where_its_option_was_taken_away(
    idle_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked stage by stage, a pipeline has no cache, and a patch that acts inside it has no place."""
    monkeypatch.setattr(patches, "_registered", {"tried": IDLE[0]})
    assert patches.apply("tried", idle_pipeline, may_idle=True) is idle_pipeline
    plain = Variant("x", "diffusers", {"cache": None}, "tried")
    assert not stage_by_stage(plain).patch_may_idle
    assert stage_by_stage(replace(plain, options={"cache": "pab"})).patch_may_idle


@pytest.mark.parametrize(
    "function",
    [_hidden_write, _own_method, _known_setting, _hook, _memory_format, _stack_function, _thread],
)
def test_whatever_can_be_reached_counts(
    function: Any, idle_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[type(idle_pipeline.native()).__module__]
    threads, kept = torch.get_num_threads(), module.retrieve_timesteps
    try:
        _applied(function, idle_pipeline, monkeypatch)
    finally:
        torch.set_num_threads(threads)
        module.retrieve_timesteps = kept


def one_of_each_plugin() -> dict[str, Fault]:
    return {f.plugin: f for f in faults() if f.planted != "options" and f.plugin is not None}


@pytest.mark.parametrize("plugin", sorted(one_of_each_plugin()))
def test_patches_of_every_kind_count_as_acting(plugin: str) -> None:
    """One patch of each module of the catalogue, in which every fault and harmless change must act."""
    row = one_of_each_plugin()[plugin]
    config = build(compose_tree(list(row.settings[0].overrides()), conf_folders(None)))
    candidate = config.candidates[0]
    pipeline = registry.load(candidate.backend).open(config.cases[0].model, candidate.options)
    try:
        patches.load_plugin(plugin)
        patches.apply(row.id, pipeline)
    finally:
        pipeline.close()


SUITE = """
import pytest
from port import ported

CASE = {"frames": 9, "height": 64, "width": 64, "steps": 2, "sampler": "ddim"}
CANNOT = {"case": "micro_2b_quick", "seeds": [0], "settings": ["match=native", "metrics=psnr",
          "candidates.diffusers.attention=efficient", "judge.probe=false", "judge.rerun=false",
          "cases.micro_2b_quick.steps=2"]}

@pytest.mark.parity(case=CASE, seeds=[0], settings=["match=native", "metrics=psnr"])
def test_twice(assert_equivalent):
    port = ported()
    assert_equivalent(port, port)

def test_cannot(assert_equivalent):
    assert_equivalent("diffusers", "diffusers", **CANNOT)

def test_may_be_missing(assert_equivalent):
    assert_equivalent("diffusers", "diffusers", allow_unsupported=True, **CANNOT)
"""


def test_the_gate_says_so_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_inner_gate=SUITE)
    port = Path(__file__).parents[1] / "sample_repo" / "port.py"
    pytester.makepyfile(port=port.read_text())
    found = pytester.runpytest_inprocess("-p", "no:parity", "-p", "harness.api.pytest_plugin", "-q")
    found.assert_outcomes(passed=1, failed=1, skipped=1, warnings=1)
    text = found.stdout.str()
    assert "the same object: nothing was compared but repeatability" in text
    assert "unsupported" in text
