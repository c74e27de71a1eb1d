"""`junit.xml`: every pair as a test case that CI systems show; only an equivalent pair is a pass.

`bug`, `broken` and `inconclusive` are failures, `error`, `not_run` and `unsupported` errors; where
the run's settings allow `unsupported`, such a pair is skipped. A run that compared nothing is one
error, so that an empty run can never be green.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from harness.records import PairResult, VerdictName
from harness.report.matrix import Matrix, Row, build_matrix
from harness.report.plain import describe_pair
from harness.report.reading import RunFiles

_OUTCOMES: dict[VerdictName, str] = {
    "bug": "failure",
    "broken": "failure",
    "inconclusive": "failure",
    "error": "error",
    "not_run": "error",
    "unsupported": "error",
}
# what XML 1.0 cannot hold, not even escaped
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(files: RunFiles) -> Path:
    """Write `junit.xml` into the run folder. Raises: StoreError, when it cannot be written."""
    from io import BytesIO

    out = BytesIO()
    tree = junit(build_matrix(files.result, files.costs), files)
    indent(tree)
    ElementTree(tree).write(out, encoding="utf-8", xml_declaration=True)
    return files.write_text("junit.xml", out.getvalue().decode())


def junit(matrix: Matrix, files: RunFiles) -> Element:
    """One suite for each case, one test case for each pair."""
    root = Element("testsuites", name="parity")
    cases = dict.fromkeys(row.pair.case for row in matrix.rows)
    for case in cases:
        rows = [row for row in matrix.rows if row.pair.case == case]
        suite = _suite(root, case, [_outcome(row.pair, files) for row in rows])
        suite.set("timestamp", files.result.created[:19])
        for row in rows:
            _case(suite, row, files)
    if not cases:
        suite = _suite(root, files.result.run, ["error"])
        empty = SubElement(suite, "testcase", classname="parity", name="nothing was compared")
        SubElement(empty, "error", type="not_run", message=matrix.headline)
    return root


def _suite(root: Element, name: str, outcomes: list[str | None]) -> Element:
    counts = {word: str(outcomes.count(word)) for word in ("failure", "error", "skipped")}
    return SubElement(
        root,
        "testsuite",
        name=_text(name),
        tests=str(len(outcomes)),
        failures=counts["failure"],
        errors=counts["error"],
        skipped=counts["skipped"],
    )


def _case(suite: Element, row: Row, files: RunFiles) -> None:
    pair = row.pair
    renders = [record for side in files.renders.sides(pair) for record in side]
    element = SubElement(
        suite,
        "testcase",
        classname=_text(f"parity.{pair.case}"),
        name=_text(f"{pair.candidate} vs {pair.reference}"),
        time=f"{sum(record.render_s or 0.0 for record in renders):.3f}",
    )
    properties = SubElement(element, "properties")
    for name, value in (
        ("verdict", pair.verdict),
        ("model", pair.model),
        ("seeds", ", ".join(map(str, pair.seeds))),
        ("page", row.page),
    ):
        SubElement(properties, "property", name=name, value=_text(value))
    text = describe_pair(pair)
    outcome = _outcome(pair, files)
    if outcome:
        message = f"{pair.verdict}: {pair.summary or row.verdict.meaning}"
        SubElement(element, outcome, type=pair.verdict, message=_text(message)).text = _text(text)
    elif text:
        SubElement(element, "system-out").text = _text(text)


def _outcome(pair: PairResult, files: RunFiles) -> str | None:
    """The element that says how the pair ended; None for a pass."""
    judge = files.result.config.get("judge", {})
    if pair.verdict == "unsupported" and judge.get("allow_unsupported", False):
        return "skipped"
    return _OUTCOMES.get(pair.verdict)


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
