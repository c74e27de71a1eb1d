"""Which metrics exist: one row each, imported only when asked for.

Packages outside this project add rows through the entry-point group `parity.metrics`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from backends.errors import suggest
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.metrics.base import Metric
    from harness.metrics.options import Options

ROWS: dict[str, str] = {
    "flicker": "harness.metrics.flicker:METRIC",
    "lpips": "harness.metrics.lpips_alex:METRIC",
    "lpips_alex_untrained": "harness.metrics.lpips_alex:UNTRAINED",
    "psnr": "harness.metrics.psnr:METRIC",
    "ssim": "harness.metrics.ssim:METRIC",
    "ssim_skimage": "harness.metrics.ssim_skimage:METRIC",
    "temporal_difference": "harness.metrics.temporal_difference:METRIC",
    "warp_error": "harness.metrics.warp_error:METRIC",
}


class MetricConfigError(ConfigError):
    """The configuration asks for a metric or an option that does not exist."""


def _rows() -> dict[str, str]:
    """This project's rows, and those of installed packages under other names."""
    return {point.name: point.value for point in entry_points(group="parity.metrics")} | ROWS


def metric_names() -> tuple[str, ...]:
    return tuple(sorted(_rows()))


def load_metric(name: str) -> Metric[Any]:
    """Import the metric behind a row. Raises: MetricConfigError, naming the closest rows."""
    if name in ROWS:
        row = ROWS[name]
    elif (row := _rows().get(name)) is None:
        raise MetricConfigError(
            f"there is no metric {name!r} in conf/metrics{suggest(name, _rows())}"
        )
    module, attribute = row.split(":")
    return getattr(importlib.import_module(module), attribute)


def build_options(name: str, values: Mapping[str, object]) -> Options:
    """Check one metric's options, as its YAML gives them. Raises: MetricConfigError."""
    from pydantic import ValidationError  # 80 ms: only when a score is asked for

    options = load_metric(name).options
    known = sorted(options.model_fields)
    for key in values:
        if key not in known:
            raise MetricConfigError(
                f"metric {name!r} has no option {key!r} (conf/metrics/{name}.yaml)"
                f"{suggest(key, known)}"
            )
    try:
        return options.model_validate(dict(values))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])} = {item['input']!r}: {item['msg']}"
            for item in error.errors()
        )
        raise MetricConfigError(
            f"metric {name!r} cannot use its options ({wrong}); see conf/metrics/{name}.yaml"
        ) from error
