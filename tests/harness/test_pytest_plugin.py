"""The plugin in a team's own suite: green when healthy, red with the right cause, goldens guarded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

SAMPLE = Path(__file__).parents[1] / "sample_repo"
PLUGIN = ["-p", "no:parity", "-p", "harness.api.pytest_plugin", "-p", "no:cacheprovider", "-q"]
Outcomes = dict[str, str]
Suite = Callable[..., tuple[int, Outcomes]]


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Run the sample repository's suite in a folder of its own.

    Returns the exit code and, for each test, `passed` or the text of its failure.
    """
    for path in SAMPLE.glob("*.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PORT_FAULT", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: str, fault: str | None = None, ci: bool = False) -> tuple[int, Outcomes]:
        with monkeypatch.context() as scope:
            if fault:
                scope.setenv("PORT_FAULT", fault)
            if ci:
                scope.setenv("CI", "true")
            xml = tmp_path / "out.xml"
            xml.unlink(missing_ok=True)
            _forget_earlier_copies()
            place = ["--rootdir", str(tmp_path), "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
            code = pytest.main([*PLUGIN, "--junit-xml", str(xml), *place, *arguments])
        return int(code), _outcomes(xml) if xml.exists() else {}

    return run


def _forget_earlier_copies() -> None:
    """Each copy of the sample repository has modules of the same names."""
    for path in SAMPLE.glob("*.py"):
        module = sys.modules.get(path.stem)
        place = getattr(module, "__file__", None)
        if place is not None and not Path(place).is_relative_to(SAMPLE.parent):
            del sys.modules[path.stem]


def _outcomes(xml: Path) -> Outcomes:
    found: Outcomes = {}
    for case in ElementTree.parse(xml).getroot().iter("testcase"):
        failures = [e.text or "" for e in case if e.tag in ("failure", "error")]
        found[str(case.get("name"))] = failures[0] if failures else "passed"
    return found


def test_goldens_are_missing_accepted_matched_and_guarded(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("-k", "accepted")
    code, outcomes = suite(*only)
    assert code == 1
    assert "missing: nothing was accepted yet" in outcomes["test_port_renders_what_was_accepted"]
    assert suite("--parity-accept", *only, ci=True)[0] == pytest.ExitCode.USAGE_ERROR
    assert not (tmp_path / "goldens").exists()
    assert suite("--parity-accept", *only)[0] == 0
    (golden,) = (tmp_path / "goldens" / "port").iterdir()
    provenance = json.loads(golden.read_text())["provenance"]
    assert provenance["accepted"]
    assert "pytest" in provenance["command"]
    assert suite(*only, ci=True)[0] == 0

    code, outcomes = suite(*only, fault="vae")
    assert code == 1
    assert "in the frames alone" in outcomes["test_port_renders_what_was_accepted"]

    other = json.loads(golden.read_text())
    other["environment"]["torch"] = "1.0"
    golden.unlink()
    (golden.parent / "0123456789abcdef.json").write_text(json.dumps(other))
    capsys.readouterr()
    code, outcomes = suite(*only)
    assert code == 1
    assert "environment_mismatch" in outcomes["test_port_renders_what_was_accepted"]
    assert "torch: '1.0' there" in outcomes["test_port_renders_what_was_accepted"]
    assert "environment mismatch, nothing was compared" in capsys.readouterr().out


def test_a_healthy_port_is_green(suite: Suite) -> None:
    code, outcomes = suite("-k", "port_is_equivalent")
    assert outcomes == {"test_port_is_equivalent": "passed"}
    assert code == 0


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("rope", "cause: transformer, transformer.transformer_blocks.0.attn1"),
        ("vae", "vae.scaling_factor"),
        ("schedule", "cause: schedule"),
    ],
)
def test_a_planted_fault_is_red_with_its_cause(suite: Suite, fault: str, cause: str) -> None:
    code, outcomes = suite("-k", "port_is_equivalent", fault=fault)
    assert code == 1
    text = outcomes["test_port_is_equivalent"]
    assert text.startswith("parity bug: port against original")
    assert cause in text
    assert "evidence:" in text
    page = Path(text.split("report: ")[1].splitlines()[0])
    assert page.is_file()


def test_a_pipeline_instance_of_diffusers_is_taken_as_it_is(suite: Suite) -> None:
    code, outcomes = suite("-k", "of_our_own")
    assert (code, outcomes) == (0, {"test_a_pipeline_of_our_own_is_equivalent": "passed"})


def test_workers_of_xdist_share_store_and_goldens(suite: Suite) -> None:
    assert suite("-n", "2", "--parity-accept", "-k", "test_port")[0] == 0
    code, outcomes = suite("-n", "2", "-k", "test_port")
    assert set(outcomes.values()) == {"passed"}
    assert code == 0


def test_what_is_no_pipeline_is_refused_in_words() -> None:
    from backends.errors import InvalidRequest
    from backends.stages.given import GivenBackend

    with pytest.raises(InvalidRequest, match="int is no pipeline: expected an object with the"):
        GivenBackend(3)
    with pytest.raises(InvalidRequest, match=r"\(\) returned a int"):
        GivenBackend(lambda: 3).open("", {"dtype": "own"})
