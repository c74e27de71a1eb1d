"""Kind F: one thing twice is said, names are those that were asked for, and unsupported is no pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness import report, session
from harness.compose import compose_tree
from harness.config import RunConfig, build
from harness.connect import in_process
from harness.folders import conf_folders
from harness.records import RunResult
from harness.repetition import with_repetition_said
from tests.report.synthetic_runs import Synthetic

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
