"""The checkpoint audit as part of a run: made by itself where the two sides load other weights.

equal as loaded                 nothing to explain; said, if the files are not the same
different, files on this disk   audited file against file, and the findings handed on
different, files elsewhere      said: the digests of what was loaded are all that is known
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import BackendError
from backends.micro import checkpoint_path
from harness.audit import audit
from harness.errors import ParityError
from harness.judge.exact import compare_pipelines
from harness.records import Evidence, Finding, Outcome, PipelineRecord

if TYPE_CHECKING:
    from backends.base import Case, Variant

_SHOWN = 3


@dataclass(frozen=True)
class FilesAudited:
    """What the files of a pair say: evidence for the chain, and findings, worst first."""

    evidence: list[Evidence] = field(default_factory=list[Evidence])
    findings: list[Finding] = field(default_factory=list[Finding])


@dataclass(frozen=True)
class _Files:
    """Where a variant's weights come from; `transformer` and `lora` None where there is none apart."""

    model: Path
    transformer: Path | None
    lora: Path | None


def audit_files(
    case: Case, variants: tuple[Variant, Variant], opened: tuple[PipelineRecord, PipelineRecord]
) -> FilesAudited:
    """Audit what `variants`, reference and candidate, load for `case`.

    `opened` are the two as they were opened at one precision. Never raises for a checkpoint that
    cannot be read: that is said, and what was loaded is compared anyway.
    """
    files = (_files(case, variants[0]), _files(case, variants[1]))
    if files[0] == files[1]:
        return FilesAudited()
    differing = [f for f in compare_pipelines(*opened) if f.kind in ("weights", "config")]
    if not differing:
        said = (
            f"other files, the same model: all {len(opened[0].weights)} weight tensors are equal in"
            " every bit as they were loaded"
        )
        return FilesAudited([_evidence("agrees", said)])
    audited = [_audited(*pair) for pair in _pairs(*files)]
    return FilesAudited(
        [evidence for evidence, _ in audited],
        [finding for _, findings in audited for finding in findings],
    )


def _files(case: Case, variant: Variant) -> _Files:
    given = {
        key: checkpoint_path(str(value))
        for key in ("checkpoint", "transformer", "lora")
        if (value := variant.options.get(key)) is not None
    }
    model = given.get("checkpoint") or checkpoint_path(case.model)
    return _Files(model, given.get("transformer"), given.get("lora"))


def _pairs(a: _Files, b: _Files) -> Iterator[tuple[Path, Path, str | None]]:
    """What to hold against what, and the component that is not taken from there."""
    own = a.transformer is not None or b.transformer is not None
    if a.model != b.model:
        yield a.model, b.model, "transformer" if own else None
    if own and a.transformer != b.transformer:
        x, y = (side.transformer or side.model for side in (a, b))
        yield _transformer(x), _transformer(y), None
    if a.lora is not None and b.lora is not None and a.lora != b.lora:
        yield a.lora, b.lora, None


def _transformer(folder: Path) -> Path:
    inside = folder / "transformer"
    return inside if inside.is_dir() else folder


def _audited(a: Path, b: Path, leave_out: str | None) -> tuple[Evidence, list[Finding]]:
    """One audit in one sentence, and its findings but those of component `leave_out`."""
    if not (a.exists() and b.exists()):
        missing = b if a.exists() else a
        said = f"{missing} is not on this disk, so only what was loaded of it was compared"
        return _evidence("noted", said), []
    try:
        report = audit(a, b)
    except (BackendError, ParityError) as error:
        return _evidence("noted", f"the files could not be audited: {error}"), []
    found = [f for f in report.findings if leave_out is None or f.component != leave_out]
    equal, of = report.compared.get("identical", 0), sum(report.compared.values())
    said = f"{_short(b)} against {_short(a)}: {equal} of {of} tensors identical up to layout"
    left = [text for row in report.coverage for text in row.missing]
    if left:
        said = f"{said}; not compared: {'; '.join(left)}"
    if not found and left:
        return _evidence("noted", f"{said}; nothing found in what was compared"), []
    if not found:
        return _evidence("agrees", f"{said}, and nothing found in what is run of them"), []
    told = "; ".join(finding.detail for finding in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} findings more" if len(found) > _SHOWN else ""
    return _evidence("noted", f"{said}; {told}{more}"), found


def _short(folder: Path) -> str:
    """A folder's name, with its parent's where it is only a component's."""
    return f"{folder.parent.name}/{folder.name}" if folder.name == "transformer" else folder.name


def _evidence(outcome: Outcome, detail: str) -> Evidence:
    return Evidence(stage="exact", check="exact.checkpoint", outcome=outcome, detail=detail)
