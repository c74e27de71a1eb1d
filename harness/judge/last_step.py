"""A last step that ends on the first training level in place of clean latents, or the other way round.

That is `set_alpha_to_one`, wherever it went wrong: a scheduler may hold another final level than its
configuration says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backends.base import ScheduleTable
from harness.judge import schedules
from harness.records import Evidence, PipelineRecord

SETTING = "scheduler.set_alpha_to_one"


def with_other_end(
    table: ScheduleTable, pipeline: PipelineRecord, steps: int
) -> ScheduleTable | None:
    """`table` as it is with the other `set_alpha_to_one` than `pipeline` has; None where that setting
    does not reach it. `steps` are those of the case."""
    settings: Mapping[str, Any] = {
        key.removeprefix("scheduler."): value
        for key, value in pipeline.configs.items()
        if key.startswith("scheduler.")
    }
    if not settings.keys() >= schedules.NEEDED:
        return None
    turned = {**settings, "set_alpha_to_one": not settings.get("set_alpha_to_one", True)}
    end = float(schedules.expected(turned, steps, subset=False).targets[-1])
    if end == table.alpha_bar_next[-1]:
        return None
    return replace(table, alpha_bar_next=[*table.alpha_bar_next[:-1], end])


def held_against_end(check: Evidence) -> Evidence:
    """A solver's check as one of the schedule, whose last step ends elsewhere."""
    told = f"{check.detail}; the last step is right for the other set_alpha_to_one"
    return check.model_copy(update={"component": "schedule", "setting": SETTING, "detail": told})
