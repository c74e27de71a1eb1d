"""Two checkpoints in, one report out: the audit's procedure from opening to exit code."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from backends.checkpoints import Lora, Source, open_source, read_lora
from harness.audit.arrangement import explain
from harness.audit.compare import Comparison, Progress, compare
from harness.audit.coverage import coverage, unlike_files
from harness.audit.lora_procedure import check_fit, compare_loras
from harness.audit.loras import fit_findings, fused_findings, own_findings
from harness.audit.notes import copies, range_findings, remarks
from harness.audit.positions import position_findings
from harness.audit.records import AuditReport
from harness.audit.settings import differing, own_faults, setting_findings, unused_keys
from harness.audit.summary import peak_gib, summary
from harness.audit.tokenizers import compared_tokenizers
from harness.audit.weights import other_dtypes, weight_findings
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT, EXIT_UNDECIDED, ParityError
from harness.records import Finding


def audit_checkpoints(
    reference: Path,
    candidate: Path,
    dtype: str | None = None,
    lora: Path | None = None,
    progress: Progress | None = None,
    strength: float = 1.0,
) -> AuditReport:
    """Compare `candidate` with `reference`, each a SAT or Diffusers folder, a component's folder, or
    one file.

    Two LoRA files are compared by what they add; a LoRA as candidate is held against the model. `dtype`
    is the precision that the candidate is meant to be stored in: the reference rounded to it then
    counts as identical, and its range is checked. `lora` is what was meant to be fused into the
    candidate, at `strength`; `progress` is told the bytes read. Holds one tensor of each side in
    memory. Raises `CheckpointError` for what cannot be read, `ParityError` where nothing can be
    compared.
    """
    started = time.perf_counter()
    left, right = read_lora(reference), read_lora(candidate)
    if left is not None and right is not None:
        return compare_loras(left, right, started)
    if left is not None:
        raise ParityError(f"{reference} is a LoRA and {candidate} is not; name the model first")
    if right is not None:
        return check_fit(open_source(reference), right, started)
    meant = read_lora(lora) if lora is not None else None
    if lora is not None and meant is None:
        raise ParityError(f"--lora {lora}: there is no LoRA; name its file")
    a, b = open_source(reference), open_source(candidate)
    return _audit(a, b, dtype, meant, strength, progress, started)


def _audit(
    a: Source,
    b: Source,
    dtype: str | None,
    lora: Lora | None,
    strength: float,
    progress: Progress | None,
    started: float,
) -> AuditReport:
    components = _components(a, b)
    found = compare(a, b, components, progress or (lambda _done, _total: None))
    explain(found)
    if dtype is not None:
        _accept(found, dtype)
    fused = _fused(found, a, lora, strength) if lora is not None else []
    settings = differing(a, b)
    # A setting that is wrong on both sides is the same on both, and told as a note.
    faults = [
        list(own_faults(side.configs or {}, f"the {which}"))
        for side, which in ((a, "reference"), (b, "candidate"))
    ]
    told = {finding.name for finding in faults[1] if finding.name in settings}
    unlike = unlike_files(a, b)
    tokenizers = compared_tokenizers(a.files, b.files, unlike)
    findings = [
        *[finding for finding in faults[1] if finding.name in told],
        *[f for f in setting_findings(settings, a, b) if f.name not in told],
        *fused,
        *position_findings(found.pairs, a, b),
        *weight_findings(found.pairs),
        *(other_dtypes(found.pairs) if dtype is not None else ()),
        *range_findings(found.pairs, dtype or ""),
        *(finding for one in tokenizers if (finding := one.finding())),
    ]
    notes = [
        *[f for side in faults for f in side if f.name not in told],
        *[
            Finding(kind="config", name=key, detail=f"{key} differs; no render of a case reads it")
            for key in unused_keys(settings, a, b)
        ],
        *(other_dtypes(found.pairs) if dtype is None else ()),
        *copies(found),
        *(range_findings(found.pairs, "float16") if dtype != "float16" else ()),
        *remarks(a, b),
    ]
    covered = coverage(a, b, found.pairs, unlike, tokenizers)
    missing = any(row.missing for row in covered)
    equal = all(pair.status == "identical" for pair in found.pairs)
    return AuditReport(
        reference=summary(a),
        candidate=summary(b),
        identical=equal and not findings and not missing,
        headline=_headline(found, findings, components, missing, dtype),
        coverage=covered,
        compared=dict(Counter(pair.status for pair in found.pairs)),
        findings=findings,
        notes=notes,
        settings=settings,
        tensors=[pair.report() for pair in found.pairs],
        wall_s=time.perf_counter() - started,
        peak_gib=peak_gib(),
        exit_code=EXIT_DIFFERENT if findings else EXIT_UNDECIDED if missing else EXIT_EQUIVALENT,
    )


def _fused(found: Comparison, a: Source, lora: Lora, strength: float) -> list[Finding]:
    shapes = {name: stored.shape for name, stored in a.tensors.items()}
    return [
        *fit_findings(lora, shapes),
        *own_findings(lora, "the LoRA"),
        *fused_findings(lora, found.pairs, strength),
    ]


def _components(a: Source, b: Source) -> tuple[str, ...]:
    """The components to compare: all of two whole models, else those that both hold."""
    both = set(a.components) & set(b.components)
    if not both:
        raise ParityError(
            f"nothing to compare: {a.path} holds {', '.join(a.components)} and {b.path} holds"
            f" {', '.join(b.components)}; name two checkpoints with a component in common"
        )
    whole = a.kind != "file" and b.kind != "file"
    return tuple(sorted(set(a.components) | set(b.components) if whole else both))


def _accept(found: Comparison, dtype: str) -> None:
    """What is stored in the intended dtype, and rounded to it exactly, counts as identical."""
    for pair in found.pairs:
        if pair.status not in ("rounded", "same_values") or pair.relation is None or not pair.b:
            continue
        rounded_to = pair.relation.source if pair.status == "rounded" else pair.b.dtype
        if rounded_to == dtype == pair.b.dtype:
            pair.told = True


def _headline(
    found: Comparison,
    findings: list[Finding],
    components: tuple[str, ...],
    missing: bool,
    dtype: str | None,
) -> str:
    total = len(found.pairs)
    equal = sum(pair.status == "identical" for pair in found.pairs)
    accepted = sum(pair.told and pair.status != "identical" for pair in found.pairs)
    where = ", ".join(components)
    if findings:
        return (
            f"DIFFERENT: {len(findings)} findings; {equal} of {total} tensors identical in canonical"
            f" layout ({where})"
        )
    if missing:
        return (
            f"UNDECIDED: nothing found in the {total} tensors that were compared ({where}), but not"
            " everything was compared"
        )
    if equal < total and not accepted:
        return (
            f"EQUAL in every value: {equal} of {total} tensors equal to the bit, {total - equal} stored"
            f" in another dtype, nothing lost ({where})"
        )
    regrouped = [p for p in found.pairs if p.a and p.b and p.a.regrouped != p.b.regrouped]
    layout = (
        f", {len(regrouped)} of them cut or joined differently" if regrouped else ", stored alike"
    )
    if accepted and dtype is None:
        return (
            f"AS INTENDED: the LoRA is fused into {accepted} tensors, all {equal} others are equal to"
            f" the bit ({where})"
        )
    if accepted:
        return (
            f"IDENTICAL after rounding to {dtype}, as intended: {accepted} tensors rounded exactly,"
            f" {equal} equal to the bit ({where})"
        )
    return (
        f"IDENTICAL up to layout: all {total} tensors equal to the bit in canonical layout{layout}"
        f" ({where})"
    )
