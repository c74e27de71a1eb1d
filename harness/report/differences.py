"""In what two renders differ besides their pixels: differing keys only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.records import PipelineRecord, RenderRecord
from harness.report.text import ABSENT, visible

_LONGEST = 160


@dataclass(frozen=True)
class Difference:
    """One key with both values as text; a dash where a side does not have it."""

    area: str
    key: str
    reference: str
    candidate: str


def find_differences(
    reference: RenderRecord,
    candidate: RenderRecord,
    pipelines: tuple[PipelineRecord, PipelineRecord] | None,
) -> list[Difference]:
    """Backend, options, environment, and, if known, what the opened pipelines say of themselves."""
    areas = _render_areas(reference), _render_areas(candidate)
    if pipelines:
        areas = areas[0] | _pipeline_areas(pipelines[0]), areas[1] | _pipeline_areas(pipelines[1])
    found: list[Difference] = []
    for area in areas[0]:
        a, b = areas[0][area], areas[1][area]
        found += [
            Difference(area, visible(key), _text(a, key), _text(b, key))
            for key in sorted(a.keys() | b.keys())
            if (key in a) != (key in b) or a[key] != b[key]
        ]
    return found


def _render_areas(record: RenderRecord) -> dict[str, Mapping[str, Any]]:
    variant = record.variant
    return {
        "variant": {"backend": variant.get("backend"), "patch": variant.get("patch")},
        "option": variant.get("options", {}),
        "environment": record.environment,
    }


def _pipeline_areas(pipeline: PipelineRecord) -> dict[str, Mapping[str, Any]]:
    return {"dtype": pipeline.dtypes, "config": pipeline.configs, "policy": pipeline.policies}


def _text(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return ABSENT
    value = values[key]
    text = visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
