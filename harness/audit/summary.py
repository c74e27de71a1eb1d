"""What an audit says of each side, and of the process that carried it out."""

from __future__ import annotations

import resource
import sys
from collections import Counter

from backends.checkpoints import Source
from harness.audit.compare import size
from harness.audit.places import place
from harness.audit.records import SourceReport

_GIB = 1024**3


def summary(source: Source) -> SourceReport:
    """A checkpoint in numbers: tensors and dtypes of each component, and its size."""
    tensors: Counter[str] = Counter()
    dtypes: dict[str, Counter[str]] = {}
    for stored in source.tensors.values():
        component = place(stored.name).component
        tensors[component] += 1
        dtypes.setdefault(component, Counter())[stored.dtype] += 1
    return SourceReport(
        path=str(source.path),
        kind=source.kind,
        tensors=dict(tensors),
        dtypes={name: dict(counts) for name, counts in dtypes.items()},
        gib=sum(map(size, source.tensors.values())) / _GIB,
        remarks=list(source.remarks),
    )


def peak_gib() -> float:
    """The peak resident memory of this process so far, mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / _GIB
