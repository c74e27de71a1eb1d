"""Audits in which a LoRA file takes part: two files compared, or one held against its model."""

from __future__ import annotations

import time
from collections import Counter

from backends.checkpoints import Lora, Source
from harness.audit.loras import fit_findings, lora_against_lora, own_findings
from harness.audit.records import AuditReport, SourceReport
from harness.audit.summary import peak_gib, summary
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT
from harness.records import Coverage, Finding
from harness.report.text import counted


def compare_loras(a: Lora, b: Lora, started: float) -> AuditReport:
    """The LoRA `b` held against `a`, of any origin, by what each adds to a layer; `started` is a
    `perf_counter` in seconds."""
    findings = [*own_findings(b, "the candidate"), *lora_against_lora(a, b)]
    if not findings:
        said = f"IDENTICAL in effect: both LoRAs add the same to {counted(len(a.modules), 'layer')}"
    else:
        said = f"DIFFERENT: {counted(len(findings), 'finding')} on {len(b.modules)} LoRA layers"
    notes = list(own_findings(a, "the reference"))
    both = set(a.modules) & set(b.modules)
    alone = sorted(n.removeprefix("transformer.") for n in set(a.modules) ^ set(b.modules))
    covered = Coverage(
        kind="layers", compared=len(both), total=len(both) + len(alone), missing=alone
    )
    return _report(lora_summary(a), lora_summary(b), said, findings, notes, [covered], started)


def check_fit(model: Source, lora: Lora, started: float) -> AuditReport:
    """`lora` held against the `model` that it is for: no values are compared. `started` as above."""
    shapes = {name: stored.shape for name, stored in model.tensors.items()}
    findings = [*fit_findings(lora, shapes), *own_findings(lora, "the LoRA")]
    layers = counted(len(lora.modules), "layer")
    covered = Coverage(kind="layers", compared=len(lora.modules), total=len(lora.modules))
    if not findings:
        said = f"FITS: every one of the LoRA's {layers} is in the model, in its size"
    else:
        said = f"DOES NOT FIT: {counted(len(findings), 'finding')} on the LoRA's {layers}"
    return _report(summary(model), lora_summary(lora), said, findings, [], [covered], started)


def lora_summary(lora: Lora) -> SourceReport:
    """The LoRA as a source: layers counted by rank and alpha."""
    kinds = Counter(
        f"rank {found.rank}, alpha {f'{found.alpha:g}' if found.stated else 'not said'}"
        for found in lora.modules.values()
    )
    return SourceReport(
        path=str(lora.path),
        kind="lora",
        tensors={"layers": len(lora.modules)},
        dtypes={"layers": dict(kinds)},
        gib=0.0,
        remarks=[],
    )


def _report(
    reference: SourceReport,
    candidate: SourceReport,
    headline: str,
    findings: list[Finding],
    notes: list[Finding],
    coverage: list[Coverage],
    started: float,
) -> AuditReport:
    return AuditReport(
        reference=reference,
        candidate=candidate,
        identical=not findings,
        headline=headline,
        coverage=coverage,
        compared={},
        findings=findings,
        notes=notes,
        settings={},
        tensors=[],
        wall_s=time.perf_counter() - started,
        peak_gib=peak_gib(),
        exit_code=EXIT_DIFFERENT if findings else EXIT_EQUIVALENT,
    )
