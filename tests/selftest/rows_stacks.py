"""Healthy pairs across the two stacks: SAT against Diffusers and the other way round."""

from __future__ import annotations

from dataclasses import replace

from tests.selftest.rows_healthy import DECLARED, chosen, with_case
from tests.selftest.setting import (
    SAT_FIVE,
    SAT_FIVE_BF16,
    SAT_FIVE_OWN,
    SAT_IMAGE,
    SAT_IMAGE_BF16,
    SAT_LATER,
    SAT_LATER_BF16,
    SAT_LATER_IMAGE,
    SAT_LATER_IMAGE_BF16,
    SAT_LATER_OWN,
    SAT_TWO,
    SAT_TWO_BF16,
    SAT_TWO_OWN,
    Setting,
)

_FOUR = (SAT_TWO, SAT_FIVE, SAT_TWO_BF16, SAT_FIVE_BF16)
_MORE = (
    SAT_IMAGE, SAT_IMAGE_BF16, SAT_LATER, SAT_LATER_BF16, SAT_LATER_IMAGE, SAT_LATER_IMAGE_BF16,
)  # fmt: skip


def _turned(setting: Setting) -> Setting:
    """Diffusers as candidate of a SAT reference."""
    return replace(setting, backend="diffusers", reference="sat")


ROWS = (
    *chosen("sat_shared", "stacks", "SAT against Diffusers, all shared", (*_FOUR, *_MORE)),
    *chosen("sat_reference_shared", "stacks", "Diffusers against SAT, all shared",
             tuple(map(_turned, (*_FOUR, SAT_LATER, SAT_IMAGE)))),
    *chosen("sat_native", "stacks", "SAT against Diffusers, policies of their own",
             tuple(replace(s, match="native") for s in (*_FOUR, *_MORE)), acceptable=("policy",)),
    *chosen("sat_reference_native", "stacks", "Diffusers against SAT, policies of their own",
             tuple(replace(_turned(s), match="native") for s in _FOUR), acceptable=("policy",)),
    *chosen("sat_rerun", "stacks", "SAT twice", (SAT_TWO_OWN, SAT_FIVE_OWN, SAT_LATER_OWN)),
    *chosen("sat_math", "stacks", "SAT with the math kernel", (SAT_TWO, SAT_FIVE_BF16),
             ("attention=math",), field="B01"),
    *chosen("sat_longer", "stacks", "SAT against Diffusers, 17 frames",
             (with_case(SAT_FIVE, "frames=17"), with_case(SAT_TWO_BF16, "frames=17"))),
    *chosen("sat_schedule_own", "stacks", "only the schedule is each stack's own",
             (SAT_TWO, SAT_FIVE), acceptable=("policy",), further=("match.schedule=own",),
             field="B13"),
    *chosen("sat_latent_dtype_own", "stacks", "only the latents' dtype is each stack's own",
             (SAT_TWO_BF16, SAT_FIVE_BF16), acceptable=DECLARED,
             further=("match.latent_dtype=own",), field="B15"),
)  # fmt: skip
