"""Findings about LoRA files: alone, against the model they are for, against each other, and fused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from backends.checkpoints import Lora
from harness.audit.compare import Pair
from harness.audit.deltas import Outcome, delta, what_was_fused
from harness.audit.places import blocks_in_words, listed, place
from harness.records import Finding
from harness.report.text import counted

_ALIKE = 0.98
_SAME = 1e-3
_MANY = 16
_FUSE_AGAIN = "fuse again from the base weights with the factor alpha / rank, scale 1"


def own_findings(lora: Lora, which: str) -> Iterable[Finding]:
    """What is wrong with a LoRA file whatever it is used with."""
    ranks = {found.rank for found in lora.modules.values()}
    silent = [layer for layer, found in lora.modules.items() if not found.stated]
    if len(ranks) > 1 and silent:
        yield _finding(
            "alpha",
            f"{which} has layers of ranks {', '.join(map(str, sorted(ranks)))} and no"
            f" alpha for {counted(len(silent), 'layer')}: some loaders take the first layer's rank as"
            " alpha everywhere, and then apply each layer with the factor first rank / own rank",
            "save the LoRA with alpha (a header or alpha tensors)",
        )
    yield from _values(lora, which)
    if lora.strange:
        yield _finding(
            "keys",
            f"{which}: {counted(len(lora.strange), 'key')} belong to no layer: {listed(lora.strange)}",
            "rename them to transformer.<layer>.lora_A.weight and lora_B.weight",
        )
    if lora.format == "diffusers" and any(
        not key.startswith("transformer.") for key in lora.foreign
    ):
        yield _finding(
            "keys",
            f"{which}: keys without the prefix `transformer.`; Diffusers ignores them and runs the"
            " base model, with a line in its log at most",
            "put `transformer.` before every key",
        )
    for fault in lora.faults:
        yield _finding("file", f"{which}: {fault}", "save or fetch the LoRA again")


def _values(lora: Lora, which: str) -> Iterable[Finding]:
    """Matrices that are not finite, or that went through eight bits."""
    broken: list[str] = []
    rounded: defaultdict[torch.dtype, list[str]] = defaultdict(list)
    for layer in lora.modules:
        matrices = lora.down(layer), lora.up(layer)
        if not all(bool(matrix.float().isfinite().all()) for matrix in matrices):
            broken.append(layer)
        elif (dtype := _eight_bits(matrices)) is not None:
            rounded[dtype].append(layer)
    if broken:
        yield _finding(
            "values",
            f"{which}: {counted(len(broken), 'layer')} hold NaN or infinity: {_layers(broken)}; every"
            " video becomes black",
            "save the LoRA again in the dtype that it was trained in",
        )
    for dtype, layers in rounded.items():
        name = str(dtype).removeprefix("torch.")
        yield _finding(
            "values",
            f"{which}: {counted(len(layers), 'layer')} were rounded to {name}, whose range ends at"
            f" {torch.finfo(dtype).max:g}: {_layers(layers)}",
            "cast the base model alone to eight bits, and leave the LoRA as it was trained",
        )


def _eight_bits(matrices: tuple[Tensor, Tensor]) -> torch.dtype | None:
    """The eight-bit dtype that holds every value of two matrices which have many values."""
    if any(matrix.unique().numel() < _MANY for matrix in matrices):
        return None
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        if all(torch.equal(m.float().to(dtype).float(), m.float()) for m in matrices):
            return dtype
    return None


def fit_findings(lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> Iterable[Finding]:
    """Which layers the model does not have, or has in another size."""
    strange, misfit = lora.misfits(shapes)
    if strange:
        every = " none of its layers is in the model, so it would change nothing:"
        some = f" {len(strange)} of its {len(lora.modules)} layers are not in the model:"
        yield _finding(
            "keys",
            f"the LoRA matches badly:{every if len(strange) == len(lora.modules) else some}"
            f" {_layers(strange)}",
            "use the LoRA with the model that it was trained on, or rename its keys",
        )
    if misfit:
        yield _finding(
            "shapes",
            f"{counted(len(misfit), 'layer')} of the LoRA have another size: {_layers(misfit)}",
            "use the LoRA with the model that it was trained on",
        )


def fused_findings(lora: Lora, pairs: list[Pair], strength: float = 1.0) -> list[Finding]:
    """What was fused into the candidate of `pairs`, layer by layer, against the reference and `lora`.

    `strength` is what was meant to multiply the LoRA besides its own factor.
    Pairs that hold exactly what was intended, and those whose mistake is named, are marked `told`.
    """
    by_name = {pair.name: pair for pair in pairs}
    groups: defaultdict[tuple[str, str], list[tuple[str, Outcome]]] = defaultdict(list)
    first = next((found.rank for found in lora.modules.values()), 0)
    for layer, found in lora.modules.items():
        pair = by_name.get(f"{layer}.weight")
        if pair is None or not pair.comparable:
            continue
        named = {
            "1 / rank": 1 / found.rank,
            "rank": float(found.rank),
            "first rank / own rank": first / found.rank,
            "own rank / first rank": found.rank / first,
            "alpha left out": 1 / found.scaling,
            f"the strength {strength:g} left out": 1 / strength,
            "sign flipped": -1.0,
            "twice": 2.0,
        }
        meant = strength * delta(lora, layer)
        outcome = what_was_fused(pair.load_a(), pair.load_b(), meant, named.values())
        pair.release()
        if outcome.kind in ("intended", "scaled", "transposed"):
            pair.told = True
        if outcome.kind == "intended":
            continue
        factor = next((word for word, f in named.items() if abs(f - outcome.factor) < _SAME), "")
        groups[outcome.kind, factor].append((layer, outcome))
    return [_fused(kind, factor, members, len(lora.modules))
            for (kind, factor), members in groups.items()]  # fmt: skip


def _fused(kind: str, factor: str, members: list[tuple[str, Outcome]], total: int) -> Finding:
    layers = [layer for layer, _ in members]
    value = members[0][1].factor
    many = f"{len(members)} of {total} layers"
    said = {
        "not_applied": f"{many} are the base weights: the LoRA was not applied to {_layers(layers)}",
        "transposed": f"{many} hold the LoRA's product transposed, (B A)^T: {_layers(layers)}",
        "scaled": f"{many} hold the LoRA times {value:.4g}"
        f"{f' ({factor})' if factor else ''} instead of 1: {_layers(layers)}",
        "other": f"{many} changed by something else than the LoRA: {_layers(layers)}",
    }[kind]
    blocks = [block for layer in layers if (block := place(layer).block)]
    return Finding(
        kind="lora",
        name="scale" if kind == "scaled" else kind,
        detail=f"{said}; {blocks_in_words(blocks, len(set(blocks)))}" if blocks else said,
        candidate=value,
        component="transformer",
        block=blocks[0] if len(set(blocks)) == 1 else None,
        remedy=_FUSE_AGAIN,
    )


def lora_against_lora(a: Lora, b: Lora) -> list[Finding]:
    """Two LoRA files compared by what they add to each layer."""
    found: list[Finding] = []
    for left, right, word in ((a, b, "only the reference"), (b, a, "only the candidate")):
        alone = [layer for layer in left.modules if layer not in right.modules]
        if alone:
            said = f"{word} adapts {counted(len(alone), 'layer')}: {_layers(alone)}"
            found.append(_finding("keys", said, "compare how the two were exported"))
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for layer in a.modules:
        if layer in b.modules and (words := _unlike(a, b, layer)):
            groups[words].append(layer)
    found += [
        _finding(
            "scale" if "times" in words else "values",
            f"{len(layers)} of {len(a.modules)} layers {words}: {_layers(layers)}",
            "compare rank, alpha and how the two files were exported",
        )
        for words, layers in groups.items()
    ]
    return found


def _unlike(a: Lora, b: Lora, layer: str) -> str | None:
    x, y = delta(a, layer), delta(b, layer)
    if x.shape != y.shape:
        return f"have another size ({tuple(x.shape)} and {tuple(y.shape)})"
    size = float(x.norm() * y.norm())
    likeness = float((x * y).sum()) / size if size else 0.0
    if likeness >= _ALIKE:
        ratio = float((x * y).sum() / x.square().sum())
        rank = a.modules[layer].rank
        if abs(ratio - 1) > _SAME:
            named = " (1 / rank)" if abs(ratio * rank - 1) < _SAME else ""
            return f"add the reference's product times {ratio:.4g}{named}"
        gap = float((x - y).norm() / x.norm())
        return None if gap < 1e-6 else f"differ by rel. L2 {gap:.0e} (rounding or training)"
    if x.shape[0] == x.shape[1] and float((x * y.t()).sum()) / (size or 1.0) >= _ALIKE:
        return "add the reference's product transposed"
    return "add something else" if bool(torch.any(y != 0)) else "add nothing (a matrix is zero)"


def _layers(names: Iterable[str]) -> str:
    return listed(name.removeprefix("transformer.") for name in names)


def _finding(name: str, detail: str, remedy: str) -> Finding:
    return Finding(kind="lora", name=name, detail=detail, component="transformer", remedy=remedy)
