"""Run every report at default settings and write what each gets to LOG.md.

    python tests/reports/measure.py [REGEX]

With REGEX, only those whose name matches, to the screen alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))

from catalogue import REPORTS, Report  # noqa: E402
from made import in_place  # noqa: E402

from harness.cli import main as parity  # noqa: E402

PLUGINS = ("--plugin", "reported_model", "--plugin", "reported_loop")


@dataclass(frozen=True)
class Answer:
    """What one report got: the verdict, what leads, all that was said, and what is wrong with it."""

    verdict: str
    place: str
    text: str
    wrong: tuple[str, ...]
    seconds: float


def answer(report: Report, store: Path, folder: Path) -> Answer:
    """Run `report` with a shared `store`; the run's own files go to `folder`."""
    settings = [in_place(setting, store.parent) for setting in report.settings]
    if not any(setting.startswith("candidate=") for setting in settings):
        settings.insert(0, "candidate=[diffusers]")
    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = parity([
            "run", "reference=diffusers", "reference.name=reference", *settings,
            *PLUGINS, f"store={store}", f"results={folder}",
        ])  # fmt: skip
    seconds = time.monotonic() - began
    verdicts = sorted(folder.glob("*/verdict.json"))
    if not verdicts:
        return _judged(
            report, "refused" if code == 2 else f"exit {code}", None, said.getvalue(), seconds
        )
    (pair,) = json.loads(verdicts[0].read_text())["pairs"]
    return _judged(report, pair["verdict"], pair, _words(pair), seconds)


def _words(pair: dict[str, Any]) -> str:
    findings = [f"{f['detail']} {f['block'] or ''} {f['remedy'] or ''}" for f in pair["findings"]]
    return "\n".join([pair["summary"], *pair["reasons"], *findings])


def _judged(
    report: Report, verdict: str, pair: dict[str, Any] | None, text: str, seconds: float
) -> Answer:
    causes = [f for f in pair["findings"] if f["kind"] == "component"] if pair else []
    expected = report.verdicts or ("refused",)
    wrong = [] if verdict in expected else [f"expected {' or '.join(expected)}"]
    if report.component and (not causes or causes[0]["component"] != report.component):
        wrong.append(f"expected {report.component} first")
    wrong += [f"does not say {p}" for p in report.says if not re.search(p, text, re.I | re.S)]
    place = ", ".join(" ".join(filter(None, (f["component"], f["block"]))) for f in causes)
    return Answer(verdict, place, text, tuple(wrong), seconds)


def _row(report: Report, got: Answer) -> str:
    line = report.line + (" (mechanism is a guess)" if report.guess else "")
    right = "yes" if not got.wrong else "no: " + "; ".join(got.wrong)
    return f"| {report.name} | {line} | {got.verdict} | {got.place or '-'} | {right} |"


def main() -> int:
    """Exit code 1 where an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    pattern = parser.parse_args().pattern
    chosen = [report for report in REPORTS if re.search(pattern, report.name)]
    answers: list[Answer] = []
    with tempfile.TemporaryDirectory() as root:
        for number, report in enumerate(chosen):
            got = answer(report, Path(root) / "store", Path(root) / f"run-{number}")
            answers.append(got)
            print(_row(report, got), f"{got.seconds:.0f} s", flush=True)
            if pattern or got.wrong:
                print(got.text, flush=True)
    right = sum(not got.wrong for got in answers)
    print(f"{right} of {len(answers)} right")
    if not pattern:
        (HERE / "LOG.md").write_text(_log(list(zip(chosen, answers, strict=True)), right))
    return 0 if right == len(answers) else 1


def _log(rows: list[tuple[Report, Answer]], right: int) -> str:
    times = sum(got.seconds for _, got in rows)
    return "\n".join([
        "# Public reports, recreated on the micro models, and what they get", "",
        f"`python tests/reports/measure.py`: {right} of {len(rows)} right, {times:.0f} s in all, at"
        f" default settings; {platform.machine()}, torch {torch.__version__},"
        f" diffusers {diffusers.__version__}. What is expected of each, and what cannot be expressed,"
        " is in `catalogue.py`.", "",
        "| report | in one line | verdict | named | right |", "|---|---|---|---|---|",
        *(_row(report, got) for report, got in rows), "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
