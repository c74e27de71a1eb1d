"""JUnit XML: what CI shows as failed, in error, skipped and passed."""

import json
from xml.etree import ElementTree

import pytest
from synthetic_runs import Synthetic

from harness import report
from harness.records import EQUIVALENT, VerdictName
from harness.report.verdicts import VERDICTS

HOSTILE = 'a\x00b\x1b[31m <x y="&"> ]]> \ud800 \u202e\n../..'


def read(run: Synthetic) -> ElementTree.Element:
    if not (run.folder / "junit.xml").exists():
        report.write(run.folder, run.store.root)
    return ElementTree.parse(run.folder / "junit.xml").getroot()


def outcome(case: ElementTree.Element) -> str:
    found = {e.tag for e in case} - {"properties", "system-out"}
    return found.pop() if found else "passed"


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_an_equivalent_pair_passes(run: Synthetic, verdict: VerdictName) -> None:
    run.pair(verdict, "candidate")
    run.save()
    (case,) = read(run).iter("testcase")
    assert (outcome(case) == "passed") is (verdict in EQUIVALENT)
    assert outcome(case) != "skipped"


def test_an_unsupported_pair_is_skipped_where_the_settings_allow_it(run: Synthetic) -> None:
    run.pair("unsupported", "candidate")
    run.save()
    verdict = run.folder / "verdict.json"
    result = json.loads(verdict.read_text())
    result["config"]["judge"] = {"allow_unsupported": True}
    verdict.write_text(json.dumps(result))
    (case,) = read(run).iter("testcase")
    assert outcome(case) == "skipped"


def test_a_run_that_compared_nothing_is_an_error(run: Synthetic) -> None:
    run.save()
    (suite,) = read(run)
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")


def test_a_failure_names_cause_evidence_and_remedy(gallery_run: Synthetic) -> None:
    root = read(gallery_run)
    assert sum(int(s.get("tests", 0)) for s in root) == len(gallery_run.pairs)
    assert sum(int(s.get("failures", 0)) for s in root) == 3
    failure = next(e for e in root.iter("failure") if e.get("type") == "bug")
    assert failure.text is not None
    for part in ("transformer_blocks.0.attn1.rope", "are not rotated", "0.18 relative L2",
                 "what to do: Set transformer.use_rotary"):  # fmt: skip
        assert part in failure.text


def test_hostile_text_stays_well_formed(run: Synthetic) -> None:
    run.pair("bug", "b", case="x\x00<y>", reasons=[HOSTILE.replace("\ud800", "")])
    run.save()
    (case,) = read(run).iter("testcase")
    assert case.get("classname") == "parity.x\ufffd<y>"
