"""Where a pair's difference comes from, in the few words that fit into a row and a headline."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.records import BlockDistance, Component, Evidence, Finding, PairResult

STAGES = {
    "exact": "Exact gate",
    "collapse": "Up-cast collapse",
    "oracle": "Oracle ratio",
    "native": "Native probes",
    "order": "Order of steps",
    "free": "Free-running renders",
    "statistics": "Statistics over seeds",
}
"""The stages of the procedure, in their order, in words for people."""

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
    """The named cause, as far as it is known: `headline` is one sentence, the rest are its places."""

    headline: str
    component: Component | None
    block: str | None
    step: int | None
    seed: int | None

    @property
    def short(self) -> str:
        """A few words: component, and block or name."""
        part = COMPONENTS[self.component] if self.component else ""
        return " > ".join(word for word in (part, self.block or "") if word) or self.headline


def find_cause(pair: PairResult) -> Cause | None:
    """The cause of a pair that differs; None where nothing names one.

    The finding with the largest share leads, one with a block before one without; where there is no
    finding, the first check that differs.
    """
    check = next((item for item in pair.evidence if item.outcome == "differs"), None)
    block = first_over(pair.blocks)
    finding = max(pair.findings, key=_weight, default=None)
    if finding is None and check is None and block is None:
        return None
    component = (finding and finding.component) or (check and check.component)
    if component is None and block is not None:
        component = "transformer"
    scanned = block.module if block and component in (None, "transformer") else None
    return Cause(
        headline=_headline(finding, check),
        component=component or None,
        block=(finding.block if finding else None) or scanned,
        step=block.step if block and scanned else (check.step if check else None),
        seed=check.seed if check else None,
    )


def first_over(blocks: list[BlockDistance]) -> BlockDistance | None:
    """The first module of the scan whose distance is over its healthy limit, or not a number."""
    return next((block for block in blocks if is_over(block)), None)


def is_over(block: BlockDistance) -> bool:
    """Whether a module lies above its limit; what is not finite always does."""
    if block.value is None or block.limit is None:
        return False
    return not math.isfinite(block.value) or block.value > block.limit


def _weight(finding: Finding) -> tuple[bool, float, bool, bool]:
    share = finding.share if finding.share is not None and math.isfinite(finding.share) else 0.0
    return finding.known is None, share, finding.block is not None, finding.component is not None


def _headline(finding: Finding | None, check: Evidence | None) -> str:
    if finding is not None:
        return finding.detail
    return check.detail if check else "A module lies above its healthy limit."
