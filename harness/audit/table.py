"""An audit in the terminal: components, findings, and the tensors that differ, worst first."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.audit.coverage import in_words
from harness.audit.records import AuditReport, SourceReport, Status, TensorReport, Values
from harness.report.text import ABSENT, magnitude, visible

SHOWN = 12
"""Rows of the tensor table unless all are asked for."""

_WORST_FIRST: tuple[Status, ...] = (
    "missing", "unexpected", "reshaped", "differs", "rounded", "same_values", "identical",
)  # fmt: skip
_WORDS: dict[Status, str] = {
    "identical": "identical",
    "same_values": "same values",
    "rounded": "rounded",
    "differs": "differs",
    "reshaped": "other shape",
    "missing": "missing",
    "unexpected": "unexpected",
}


def print_report(report: AuditReport, console: Console, rows: int = SHOWN) -> None:
    """Print `report` on `console`; `rows` is how many tensors that differ are shown at most."""
    for which, source in (("reference", report.reference), ("candidate", report.candidate)):
        console.print(_source(which, source))
    console.print(Padding(_components(report), (1, 0, 0, 0)))
    for number, finding in enumerate(report.findings, start=1):
        text = Text(f"{number}. {visible(finding.detail)}", "bold red")
        if finding.remedy:
            text.append(f"\n   {visible(finding.remedy)}", "not bold default")
        console.print(Padding(text, (1 if number == 1 else 0, 0, 0, 0)))
    _print_tensors(report, console, rows)
    for finding in report.notes:
        console.print(Text(f"note: {visible(finding.detail)}", "dim"))
    components = {tensor.name.partition(".")[0]: None for tensor in report.tensors}
    console.print(Text(visible(in_words(report.coverage, components or ("lora",)))))
    tone = {0: "green", 3: "bold yellow"}.get(report.exit_code, "bold red")
    read = report.reference.gib + report.candidate.gib
    console.print(Padding(Text(visible(report.headline), tone), (1, 0, 0, 0)))
    console.print(
        Text(f"{read:.2f} GiB read in {report.wall_s:.1f} s, peak {report.peak_gib:.2f} GiB", "dim")
    )


def _source(which: str, source: SourceReport) -> Text:
    text = Text(f"{which}  ", "bold")
    return text.append(f"{visible(source.path)} ({source.kind})", "not bold")


def _components(report: AuditReport) -> Table:
    present: list[Status] = [
        status for status in reversed(_WORST_FIRST) if report.compared.get(status)
    ]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold dim")
    for title in ("component", "dtype"):
        table.add_column(title, no_wrap=True)
    for status in present:
        table.add_column(_WORDS[status], justify="right", no_wrap=True)
    table.add_column("largest |value|", justify="right", no_wrap=True)
    components = {tensor.name.partition(".")[0]: None for tensor in report.tensors}
    for component in components:
        members = [t for t in report.tensors if t.name.startswith(f"{component}.")]
        statuses: list[Status] = [tensor.status for tensor in members]
        largest = [_largest(t.values_b or t.values_a) for t in members]
        table.add_row(
            component,
            _dtypes(report, component),
            *(str(statuses.count(status)) for status in present),
            magnitude(max((value for value in largest if value is not None), default=None)),
        )
    return table


def _dtypes(report: AuditReport, component: str) -> str:
    left, right = (
        ", ".join(source.dtypes.get(component, {})) or ABSENT
        for source in (report.reference, report.candidate)
    )
    return left if left == right else f"{left} > {right}"


def _print_tensors(report: AuditReport, console: Console, rows: int) -> None:
    differing = sorted((t for t in report.tensors if t.status != "identical"), key=_severity)
    if not differing:
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold dim")
    table.add_column("tensor\n  how it differs", overflow="fold", ratio=1)
    for title in ("rel. L2\n", "ulps\n", "changed\n", "std\nref.", "std\ncand."):
        table.add_column(title, justify="right", no_wrap=True)
    for tensor in differing[:rows]:
        name = Text(f"{visible(tensor.name)}\n", "bold")
        name.append(f"  {_WORDS[tensor.status]}", "not bold")
        if tensor.relation:
            name.append(f": {visible(tensor.relation)}", "not bold")
        gap = tensor.difference
        numbers = [
            magnitude(gap.rel_l2 if gap else None),
            magnitude(gap.max_ulps if gap else None),
            f"{gap.changed_share:.0%}" if gap else ABSENT,
        ]
        spreads = [_spread(tensor.values_a), _spread(tensor.values_b)]
        table.add_row(name, *numbers, *spreads)
    console.print(Padding(table, (1, 0, 0, 0)))
    if len(differing) > rows:
        console.print(Text(f"and {len(differing) - rows} more; --rows or --json shows them", "dim"))


def _severity(tensor: TensorReport) -> tuple[int, float]:
    gap = tensor.difference.rel_l2 if tensor.difference else 0.0
    return _WORST_FIRST.index(tensor.status), -gap


def _largest(values: Values | None) -> float | None:
    return None if values is None else max(abs(values.minimum), abs(values.maximum))


def _spread(values: Values | None) -> str:
    return magnitude(values.std if values else None)
