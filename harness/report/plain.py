"""One pair in plain lines, for a log, a test's failure, or a paragraph of an issue."""

from __future__ import annotations

from harness.records import Evidence, PairResult
from harness.report.cause import COMPONENTS, find_cause
from harness.report.evidence import read_chain
from harness.report.text import coverage_sentence, finding_sentence, visible_lines


def describe_pair(pair: PairResult) -> str:
    """Verdict in words, cause, findings with what to do, and the checks that do not agree."""
    lines = [pair.summary] if pair.summary else list(pair.reasons)
    cause = find_cause(pair)
    if cause is not None and cause.component is not None:
        block = f", {cause.block}" if cause.block else ""
        lines.append(f"cause: {COMPONENTS[cause.component]}{block}")
    for finding in pair.findings:
        lines.append(f"finding: {finding_sentence(finding)}")
        if finding.remedy:
            lines.append(f"  what to do: {finding.remedy}")
    if compared := coverage_sentence(pair.coverage):
        lines.append(compared)
    lines += [
        f"evidence: {link.check.check} ({link.stage}{_part(link.check)}) {link.check.outcome}:"
        f" {link.check.detail}"
        + (f" [{link.value}, limit {link.limit}, healthy {link.healthy}]" if link.band else "")
        for link in read_chain(pair)
        if link.check.outcome in ("differs", "unscored")
    ]
    return "\n".join(visible_lines(line) for line in lines)


def _part(check: Evidence) -> str:
    return f", {COMPONENTS[check.component]}" if check.component else ""
