"""The public reports can be run, are all in the log, and one that needs no probe is answered rightly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from catalogue import REPORTS, Report  # noqa: E402
from made import in_place  # noqa: E402
from measure import answer  # noqa: E402

from backends.worker import patches  # noqa: E402
from harness.config.compose import compose_tree  # noqa: E402
from harness.config.config import build  # noqa: E402
from harness.config.folders import conf_folders  # noqa: E402
from harness.errors import ConfigError  # noqa: E402


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {
        name
        for plugin in ("reported_model", "reported_loop")
        for name in patches.load_plugin(plugin)
    }


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_a_report_is_a_run_of_known_patches(
    report: Report, known: set[str], tmp_path: Path
) -> None:
    settings = [in_place(setting, tmp_path) for setting in report.settings]
    if not any(setting.startswith("candidate=") for setting in settings):
        settings.insert(0, "candidate=[diffusers]")
    named = ["reference=diffusers", "reference.name=reference", *settings]
    if not report.verdicts:
        with pytest.raises(ConfigError, match="|".join(report.says)):
            build(compose_tree(named, conf_folders(None)))
        return
    config = build(compose_tree(named, conf_folders(None)))
    variants = (config.reference, *config.candidates)
    assert {v.patch for v in variants if v.patch is not None} <= known
    assert len(config.cases) == len(config.candidates) == 1


def test_the_log_has_every_report() -> None:
    rows = (HERE / "LOG.md").read_text().splitlines()
    logged = [row.split("|")[1].strip() for row in rows if row.startswith("| ")][1:]
    assert logged == [report.name for report in REPORTS]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CogVideo 547", "OpenWorldLib 135", "diffusers 5313"])
def test_some_are_answered_anew(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (report,) = (r for r in REPORTS if r.name == name)
    got = answer(report, tmp_path / "store", tmp_path / "run")
    assert got.wrong == (), got.text
