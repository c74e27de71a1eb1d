"""The gate inside a user's own test-suite (entry point `pytest11`).

    def test_port(assert_equivalent):
        assert_equivalent(reference_pipeline, my_pipeline, case={"frames": 9, ...}, seeds=[0, 1])

    @pytest.mark.parity(case="micro_5b_quick", seeds=[0])
    def test_regression(assert_golden):
        assert_golden(my_pipeline)

Both fixtures take a variant's name, an object with the stages of `backends.base.Pipeline`, a Diffusers
pipeline, or a function that makes one. Only an equivalent verdict passes; a pair that cannot
exist here skips if the test says `allow_unsupported=True`, and fails otherwise.
Nothing heavy is imported before a test asks for it.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from harness.errors import ParityError

if TYPE_CHECKING:
    from harness.api.compare import Comparison, Places
    from harness.api.goldens import Golden
    from harness.records import PairResult

_DEFAULTS = ("case", "seeds", "settings", "names", "name", "allow_unsupported")
_ALLOWED = "judge.allow_unsupported=true"
_MISMATCH = "parity_environment_mismatch"


class ParityWarning(UserWarning):
    """A test passes, and says less than it seems to."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the gate."""
    group = parser.getgroup("parity", "equivalence of video diffusion pipelines")
    group.addoption(
        "--parity-accept",
        action="store_true",
        help="accept the results of assert_golden instead of comparing them; refused where CI=true",
    )
    group.addoption("--parity-results", metavar="DIR", help="run folders; default: ROOTDIR/results")
    group.addoption(
        "--parity-store", metavar="DIR", help="the run store; default: store below the run folders"
    )
    group.addoption("--parity-config-dir", metavar="DIR", help="your own cases and variants")
    group.addoption(
        "--parity-goldens",
        metavar="DIR",
        help="where goldens are kept; default: goldens beside the test's file",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse to accept anything where CI runs."""
    config.addinivalue_line(
        "markers",
        f"parity({', '.join(_DEFAULTS)}): defaults of assert_equivalent and assert_golden",
    )
    if config.getoption("--parity-accept"):
        from harness.api.goldens import GoldenError, refuse_in_ci

        try:
            refuse_in_ci()
        except GoldenError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Environment mismatches in a section of their own: they are neither equal nor different."""
    found = [
        (report.nodeid, value)
        for report in terminalreporter.stats.get("failed", [])
        for name, value in report.user_properties
        if name == _MISMATCH
    ]
    if found:
        terminalreporter.section("parity: environment mismatch, nothing was compared")
        for nodeid, detail in found:
            terminalreporter.write_line(f"{nodeid}: {detail}")


@pytest.fixture
def assert_equivalent(request: pytest.FixtureRequest) -> Callable[..., PairResult]:
    """`assert_equivalent(reference, candidate, case=..., seeds=...)`: see `Gate`."""
    return Gate(request).assert_equivalent


@pytest.fixture
def assert_golden(request: pytest.FixtureRequest) -> Callable[..., Golden]:
    """`assert_golden(candidate, case=..., seeds=...)`: see `Gate`."""
    return Gate(request).assert_golden


class Gate:
    """What the fixtures call, with the marker's settings as defaults."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        """Raises `pytest.UsageError` for a setting that the marker does not have."""
        self._config, self._node = request.config, request.node
        marker = self._node.get_closest_marker("parity")
        self._defaults: dict[str, Any] = dict(marker.kwargs) if marker else {}
        if unknown := self._defaults.keys() - set(_DEFAULTS):
            raise pytest.UsageError(
                f"the marker parity has no {sorted(unknown)}; it has {', '.join(_DEFAULTS)}"
            )

    def assert_equivalent(self, reference: object, candidate: object, **given: Any) -> PairResult:
        """Fail unless the judge finds `candidate` equivalent to `reference`; return the result.

        Keywords: `case`, `seeds`, `settings` (Hydra overrides such as "match=native"), `names` of
        the two sides, and `allow_unsupported`: skip, instead of fail, where a side cannot exist here.
        See `harness.api.compare.compare`.
        """
        __tracebackhide__ = True
        from harness.api.compare import compare

        arguments = self._arguments(
            given, "case", "seeds", "settings", "names", "allow_unsupported"
        )
        if allowed := bool(arguments.pop("allow_unsupported", False)):
            arguments["settings"] = [*arguments.get("settings", ()), _ALLOWED]
        comparison = compare(
            reference, candidate, **arguments, places=self._places(), command=_command()
        )
        pair = comparison.pair
        self._node.user_properties.append(("parity_verdict", pair.verdict))
        _settle(comparison, allowed)
        return pair

    def assert_golden(self, candidate: object, **given: Any) -> Golden:
        """Fail unless `candidate` renders what was accepted in this environment, to the bit.

        Keywords: `case`, `seeds`, `settings`, and the golden's `name` (default: the test's own).
        """
        __tracebackhide__ = True
        from harness.api.compare import render_alone
        from harness.api.goldens import accept, check, name_of_test, read_golden

        arguments = self._arguments(given, "case", "seeds", "settings", "name")
        name = arguments.pop("name", None) or name_of_test(self._node.nodeid)
        store, renders = render_alone(candidate, **arguments, places=self._places())
        try:
            golden = read_golden(name, store, renders, {"command": shlex.join(_command())})
            if self._config.getoption("--parity-accept"):
                accept(self._goldens(), golden)
                return golden
            pictures = self._places().results / "goldens"
            found = check(self._goldens(), golden, store, pictures)
        except ParityError as error:
            pytest.fail(f"parity: {error}", pytrace=False)
        if found.outcome == "environment_mismatch":
            self._node.user_properties.append((_MISMATCH, found.detail))
        if found.outcome != "matches":
            pytest.fail(f"parity golden {name}: {found.outcome}: {found.detail}", pytrace=False)
        return golden

    def _arguments(self, given: dict[str, Any], *known: str) -> dict[str, Any]:
        """The call's keywords over the marker's; a case and seeds are always there."""
        if unknown := given.keys() - set(known):
            raise TypeError(f"unknown {sorted(unknown)}; known are {', '.join(known)}")
        merged = {"case": "micro_5b_quick", "seeds": [0], **self._defaults, **given}
        return {key: value for key, value in merged.items() if key in known}

    def _places(self) -> Places:
        from harness.api.compare import Places

        results = self._folder("--parity-results") or self._config.rootpath / "results"
        return Places(
            results=results,
            store=self._folder("--parity-store") or results / "store",
            config_dir=self._folder("--parity-config-dir"),
        )

    def _goldens(self) -> Path:
        return self._folder("--parity-goldens") or self._node.path.parent / "goldens"

    def _folder(self, option: str) -> Path | None:
        value = self._config.getoption(option)
        return self._config.invocation_params.dir / value if value else None


def _settle(comparison: Comparison, allow_unsupported: bool) -> None:
    """Return for an equivalent pair, skip what may be missing here, fail for everything else."""
    __tracebackhide__ = True
    from harness import report
    from harness.records import EQUIVALENT
    from harness.report.plain import describe_pair
    from harness.verdict.repetition import SENTENCE

    pair = comparison.pair
    if pair.verdict in EQUIVALENT:
        if pair.reasons[:1] in ([SENTENCE.format(what=what)] for what in ("object", "variant")):
            warnings.warn(f"parity: {pair.reasons[0]}", ParityWarning, stacklevel=2)
        return
    title = f"{pair.verdict}: {pair.candidate} against {pair.reference}, case {pair.case}"
    text = describe_pair(pair)
    if pair.verdict == "unsupported" and allow_unsupported:
        pytest.skip(f"parity {title}: {text}")
    page = report.write(comparison.folder, comparison.store)
    _fail(f"parity {title}, {len(pair.seeds)} seeds\n{text}\nreport: {page}")


def _fail(text: str) -> NoReturn:
    __tracebackhide__ = True
    pytest.fail(text, pytrace=False)


def _command() -> tuple[str, ...]:
    """The command to repeat; a worker of pytest-xdist has none of its own."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return ("pytest", os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0])
    return ("pytest", *sys.argv[1:])
