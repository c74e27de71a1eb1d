"""Settings of a run that can be carried out but mislead, found before anything is rendered.

Each is a `Finding` with its reason and remedy. What holds for a model is read from its own files,
where they are on this machine, and else from its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from backends.base import Case, ScheduleTable
from harness.audit.hazards_of_pairs import pair_hazards
from harness.audit.models import Model, look_up
from harness.audit.precision import precision_hazards
from harness.audit.settings import own_faults
from harness.config.config import RunConfig, VariantSpec
from harness.judge.schedules import NEEDED, dividing, expected, inconsistent
from harness.records import Finding

_LATENT_PX = 8


def hazards(config: RunConfig) -> list[Finding]:
    """Every hazard of a run, each once, in the order case, variant, pair.

    Reads the configuration files of local models, and their weights' ranges where a variant runs in
    float16 what is stored in a wider dtype.
    """
    found: list[Finding] = []
    for case in config.cases:
        model = look_up(case.model)
        found += _case_hazards(case, model, f"cases.{case.name}")
        found += own_faults(model.settings, f"model {case.model}")
        found += _variant_hazards(config.reference, model, "reference", own_text=True)
        for candidate in config.candidates:
            place, own_text = f"candidates.{candidate.name}", candidate.match.text == "own"
            found += _variant_hazards(candidate, model, place, own_text=own_text)
            if candidate.case:
                changed = replace(case, **candidate.case)
                found += _case_hazards(changed, model, f"{place}.case")
    for candidate in config.candidates:
        found += pair_hazards(config.reference, candidate)
    unique = {(finding.name, finding.detail): finding for finding in found}
    return list(unique.values())


def _variant_hazards(
    variant: VariantSpec, model: Model, place: str, *, own_text: bool
) -> Iterator[Finding]:
    """What one variant makes of `model`, or of the checkpoint that it runs in its place."""
    checkpoint = variant.options.get("checkpoint")
    if checkpoint is not None:
        model = look_up(str(checkpoint))
        yield from own_faults(model.settings, f"{place}.checkpoint, {checkpoint}")
    yield from precision_hazards(variant, model, place, own_text=own_text)


def _case_hazards(case: Case, model: Model, where: str) -> Iterator[Finding]:
    if case.dynamic_guidance and case.sampler == "ddim":
        yield _hazard(
            f"{where}.dynamic_guidance",
            f"case {case.name}: dynamic guidance with the ddim sampler; CogVideoX was tuned for"
            " dynamic guidance with dpm and for a constant scale with ddim, so quality may suffer on"
            " both sides",
            f"set {where}.dynamic_guidance=false or {where}.sampler=dpm",
        )
    yield from _step_hazards(case, model, where)
    yield from _frame_hazards(case, model, where)
    yield from _size_hazards(case, model, where)
    yield from _text_hazards(case, model)


def _step_hazards(case: Case, model: Model, where: str) -> Iterable[Finding]:
    """A step count from which a stack that steps by T // N training steps makes an uneven schedule."""
    settings = {
        key.removeprefix("scheduler."): value
        for key, value in model.settings.items()
        if key.startswith("scheduler.")
    }
    total = settings.get("num_train_timesteps")
    if not settings.keys() >= NEEDED or case.steps < 1 or not total or total % case.steps == 0:
        return
    wanted = expected(settings, case.steps, subset=False)
    table = ScheduleTable(wanted.timesteps, list(wanted.levels), list(wanted.targets))
    if odd := inconsistent(table):
        near = dividing(int(total), case.steps)
        yield _hazard(
            f"{where}.steps",
            f"case {case.name}: {case.steps} steps do not divide the {total} training steps; in a"
            f" schedule that steps by {total} // {case.steps}, {odd}",
            f"set {where}.steps={' or '.join(map(str, near))}",
        )


def _frame_hazards(case: Case, model: Model, where: str) -> Iterable[Finding]:
    trained = model.settings.get("transformer.sample_frames")
    if model.full_size and model.family is not None:
        known = model.family.frames
        if case.frames not in known:
            wanted = " or ".join(map(str, known))
            yield _hazard(
                f"{where}.frames",
                f"case {case.name}: {case.frames} frames; {model.family.name} was trained for"
                f" {wanted}, and other counts give mosaics or gibberish",
                f"set {where}.frames={known[0]}",
            )
    elif isinstance(trained, int) and case.frames > trained:
        yield _hazard(
            f"{where}.frames",
            f"case {case.name}: {case.frames} frames, more than the {trained} that {case.model} was"
            " trained for",
            f"set {where}.frames={trained} or fewer",
        )


def _size_hazards(case: Case, model: Model, where: str) -> Iterable[Finding]:
    base = [model.settings.get(f"transformer.sample_{side}") for side in ("height", "width")]
    if not all(isinstance(side, int) for side in base):
        return
    pixels = [int(side or 0) * _LATENT_PX for side in base]
    asked = [case.height, case.width]
    sliced = model.settings.get("transformer.patch_size_t") is not None
    wrong = any(a > p for a, p in zip(asked, pixels, strict=True)) if sliced else asked != pixels
    if wrong:
        limit = "at most " if sliced else ""
        yield _hazard(
            f"{where}.height",
            f"case {case.name}: {case.height}x{case.width} px, but the model's positions are made for"
            f" {limit}{pixels[0]}x{pixels[1]}; other sizes stretch or crop the content",
            f"set {where}.height={pixels[0]} {where}.width={pixels[1]}",
        )


def _text_hazards(case: Case, model: Model) -> Iterable[Finding]:
    length = model.settings.get("transformer.max_text_seq_length")
    if not model.full_size or model.family is None or length in (None, *model.family.text_lengths):
        return
    wanted = " or ".join(map(str, model.family.text_lengths))
    yield _hazard(
        "transformer.max_text_seq_length",
        f"model {case.model}: text is padded to {length} tokens, but {model.family.name} was trained"
        f" with {wanted}; the video's positions begin at another place",
        f"set max_text_seq_length to {model.family.text_lengths[0]} in transformer/config.json",
    )


def _hazard(name: str, detail: str, remedy: str) -> Finding:
    return Finding(kind="config", name=name, detail=detail, remedy=remedy)
