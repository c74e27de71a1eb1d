"""Where a pair's difference comes from, in the few words that fit into a row and a headline."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from harness.records import DECLARED, BlockDistance, Component, Evidence, Finding, PairResult

STAGE_TITLES = {
    "exact": "Exact gate",
    "collapse": "Up-cast collapse",
    "oracle": "Oracle ratio",
    "native": "Native probes",
    "order": "Asked again",
    "free": "Free-running renders",
    "statistics": "Statistics over seeds",
}
"""The stages of evidence in words for people, in the order of the page."""

COMPONENTS: dict[Component, str] = {
    "text": "text encoder",
    "image_encoder": "image encoder",
    "schedule": "schedule",
    "noise": "noise",
    "transformer": "transformer",
    "guidance": "guidance",
    "solver": "solver",
    "decoder": "VAE decoder",
    "loop": "sampling loop",
    "frames": "frames after decoding",
}


@dataclass(frozen=True)
class Cause:
    """The named cause, as far as it is known.

    `sentence` says it in plain words and `headline` with its numbers; `short` fits into a row of the
    matrix. The rest are its places.
    """

    sentence: str
    headline: str
    short: str
    component: Component | None = None
    block: str | None = None
    step: int | None = None
    seed: int | None = None
    remedy: str | None = None


def find_cause(pair: PairResult) -> Cause | None:
    """The cause of a pair that differs; None where nothing differs, or nothing names one.

    The finding with the largest share leads, one with a block before one without; where there is no
    finding, the first check that differs.
    """
    if pair.verdict in ("bit_exact", "rounding", "chaotic"):
        return None
    if pair.verdict in ("policy", "approximation"):
        return _policies(pair)
    check = next((item for item in pair.evidence if item.outcome == "differs"), None)
    block = first_over(pair.blocks)
    finding = max((f for f in pair.findings if f.known is None), key=_weight, default=None)
    if finding is None and check is None and block is None:
        return None
    component = (finding and finding.component) or (check and check.component)
    if component is None and block is not None:
        component = "transformer"
    scanned = block.module if block and component in (None, "transformer") else None
    where = (finding.block if finding else None) or scanned
    headline = _headline(finding, check)
    part = COMPONENTS[component] if component else ""
    inside = module_words(where) if where else ""
    return Cause(
        sentence=_sentence(part, inside) or headline,
        headline=headline,
        short=" > ".join(word for word in (part, inside) if word) or headline,
        component=component or None,
        block=where,
        step=block.step if block and scanned else (check.step if check else None),
        seed=check.seed if check else None,
        remedy=finding.remedy if finding else None,
    )


def module_words(name: str) -> str:
    """A module's canonical name, shortened for people.

    >>> module_words("transformer.transformer_blocks.3.attn1"), module_words("vae.decoder.conv_in")
    ('block 3, attn1', 'decoder.conv_in')
    """
    found = re.fullmatch(r"(?:transformer\.)?transformer_blocks\.(\d+)(?:\.(.+))?", name)
    if found:
        return f"block {found[1]}" + (f", {found[2]}" if found[2] else "")
    root, _, rest = name.partition(".")
    return rest if rest and root in ("transformer", "vae", "text_encoder") else name


def _sentence(part: str, inside: str) -> str:
    """Plain words, as far as a component is named."""
    if not part:
        return ""
    what = "differ" if part.startswith("frames") else "differs"
    return f"The {part} {what}" + (f", and first in {inside}." if inside else ".")


def _policies(pair: PairResult) -> Cause | None:
    """The registered differences that have an effect: those of a component, or set by the user."""
    acting = [f for f in pair.findings if f.known and (f.component or f.declared)]
    if not acting:
        return None
    names = [(f.known or "").removeprefix(DECLARED).replace("_", " ") for f in acting]
    return Cause(
        sentence=f"Different on purpose: {', '.join(names)}.",
        headline="; ".join(f.detail for f in acting),
        short=", ".join(names),
        component=acting[0].component if len(acting) == 1 else None,
    )


def first_over(blocks: list[BlockDistance]) -> BlockDistance | None:
    """The first module of the scan whose distance is over its healthy limit, or not a number."""
    return next((block for block in blocks if is_over(block)), None)


def is_over(block: BlockDistance) -> bool:
    """Whether a module lies above its limit; what is not finite always does."""
    if block.value is None or block.limit is None:
        return False
    return not math.isfinite(block.value) or block.value > block.limit


def _weight(finding: Finding) -> tuple[float, bool, bool]:
    share = finding.share if finding.share is not None and math.isfinite(finding.share) else 0.0
    return share, finding.block is not None, finding.component is not None


def _headline(finding: Finding | None, check: Evidence | None) -> str:
    if finding is not None:
        return finding.detail
    return check.detail if check else "A module lies above its healthy limit."
