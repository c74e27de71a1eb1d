"""Checkpoints and configurations compared without rendering.

`audit` compares two checkpoints tensor by tensor and key by key; `hazards` reads a run's
configuration. Both give `harness.records.Finding`. Importing this package costs nothing: torch
comes with the first audit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from backends.micro import checkpoint_path

if TYPE_CHECKING:
    from harness.audit.records import AuditReport

__all__ = ["audit"]


def audit(
    reference: str | Path,
    candidate: str | Path,
    *,
    dtype: str | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Compare two checkpoints: model folders, component folders, weight files, or micro models.

    `dtype` is the precision that the candidate is meant to be stored in ("bfloat16", ...).
    `lora` is the LoRA file that was meant to be fused into the candidate, `lora_scale` times.
    `progress` is told the bytes read so far and in all. Raises `CheckpointError`, `ParityError`.
    """
    from harness.audit.procedure import audit_checkpoints

    paths = [checkpoint_path(str(name)) for name in (reference, candidate)]
    meant = None if lora is None else checkpoint_path(str(lora))
    return audit_checkpoints(paths[0], paths[1], dtype, meant, progress, lora_scale)
