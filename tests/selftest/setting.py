"""Where a planted change runs: both sides of a pair, and the overrides that compose it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Model = Literal[
    "micro-2b", "micro-5b", "micro-5b-i2v", "micro-1.5-5b", "micro-1.5-5b-i2v"
]  # fmt: skip
Stack = Literal["diffusers", "diffusers_offload", "sat"]
Dtype = Literal["float32", "bfloat16"]
MatchName = Literal["native", "shared"]

_CASES = {
    "micro-2b": "micro_2b_quick",
    "micro-5b": "micro_5b_quick",
    "micro-5b-i2v": "micro_5b_i2v_quick",
    "micro-1.5-5b": "micro_1_5_5b_quick",
    "micro-1.5-5b-i2v": "micro_1_5_5b_i2v_quick",
}
_CANDIDATES = {
    "diffusers": "diffusers",
    "diffusers_offload": "diffusers_model_offload",
    "sat": "sat",
}


@dataclass(frozen=True)
class Setting:
    """One pair on the quick case of a micro model (9 frames of 64x64, 8 steps; 17 and 5 for I2V 1.0).

    `backend` is the candidate's and `reference` the other side's; both run in `dtype`. Within one
    stack `match=native` hides nothing, because both sides have the same policies; across stacks
    `shared` leaves only mathematics. `case` and `candidate` hold further settings of either as
    `key=value`, for instance `frames=17` or `placement=sequential_offload`.
    """

    model: Model
    backend: Stack = "diffusers"
    reference: Literal["diffusers", "sat"] = "diffusers"
    dtype: Dtype = "float32"
    match: MatchName = "native"
    case: tuple[str, ...] = ()
    candidate: tuple[str, ...] = ()

    @property
    def sampler(self) -> Literal["ddim", "dpm"]:
        """The case's own solver, unless `case` names another."""
        for item in self.case:
            if item in ("sampler=ddim", "sampler=dpm"):
                return "ddim" if item.endswith("ddim") else "dpm"
        return "ddim" if self.model == "micro-2b" else "dpm"

    def overrides(self, *further: str) -> tuple[str, ...]:
        """Overrides for `parity run`; `further` settings of the candidate, as `patch=name`."""
        name = _CANDIDATES[self.backend]
        return (
            *self._without_candidate,
            f"candidate=[{name}]",
            f"candidates.{name}.dtype={self.dtype}",
            *(f"candidates.{name}.{item}" for item in (*self.candidate, *further)),
        )

    def precise(self) -> tuple[str, ...]:
        """Overrides for a run whose candidate is the reference in float64. Only Diffusers has that."""
        return (
            *self._without_candidate,
            "candidate=[]",
            f"+backend@candidates.precise={self.reference}",
            "candidates.precise.dtype=float64",
        )

    @property
    def _without_candidate(self) -> tuple[str, ...]:
        case = _CASES[self.model]
        return (
            f"case=[{case}]",
            f"reference={self.reference}",
            "reference.name=reference",
            f"reference.dtype={self.dtype}",
            f"match={self.match}",
            *(f"cases.{case}.{item}" for item in self.case),
        )


TWO = Setting("micro-2b")
FIVE = Setting("micro-5b")
TWO_BF16 = Setting("micro-2b", dtype="bfloat16")
FIVE_BF16 = Setting("micro-5b", dtype="bfloat16")
TWO_LONG = Setting("micro-2b", case=("frames=17",))
FIVE_LONG = Setting("micro-5b", case=("frames=17",))
"""Five latent frames, so that the decoder works in two pieces."""

IMAGE = Setting("micro-5b-i2v")
IMAGE_BF16 = Setting("micro-5b-i2v", dtype="bfloat16")
LATER = Setting("micro-1.5-5b")
LATER_BF16 = Setting("micro-1.5-5b", dtype="bfloat16")
LATER_IMAGE = Setting("micro-1.5-5b-i2v")
LATER_IMAGE_BF16 = Setting("micro-1.5-5b-i2v", dtype="bfloat16")
"""Image-to-video, and CogVideoX 1.5."""

TWO_OFFLOAD = Setting("micro-2b", "diffusers_offload")
FIVE_OFFLOAD = Setting("micro-5b", "diffusers_offload")

SAT_TWO = Setting("micro-2b", "sat", "diffusers", match="shared")
SAT_FIVE = Setting("micro-5b", "sat", "diffusers", match="shared")
SAT_TWO_BF16 = Setting("micro-2b", "sat", "diffusers", "bfloat16", "shared")
SAT_FIVE_BF16 = Setting("micro-5b", "sat", "diffusers", "bfloat16", "shared")
SAT_IMAGE = Setting("micro-5b-i2v", "sat", "diffusers", match="shared")
SAT_LATER = Setting("micro-1.5-5b", "sat", "diffusers", match="shared")
SAT_LATER_BF16 = Setting("micro-1.5-5b", "sat", "diffusers", "bfloat16", "shared")
SAT_LATER_IMAGE = Setting("micro-1.5-5b-i2v", "sat", "diffusers", match="shared")
SAT_IMAGE_BF16 = Setting("micro-5b-i2v", "sat", "diffusers", "bfloat16", "shared")
SAT_LATER_IMAGE_BF16 = Setting("micro-1.5-5b-i2v", "sat", "diffusers", "bfloat16", "shared")
"""A defective SAT against Diffusers, everything shared that can be."""

SAT_TWO_OWN = Setting("micro-2b", "sat", "sat")
SAT_FIVE_OWN = Setting("micro-5b", "sat", "sat")
SAT_LATER_OWN = Setting("micro-1.5-5b", "sat", "sat")
"""SAT against itself, for defects in what a shared match would replace."""
