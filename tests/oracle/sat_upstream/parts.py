"""All comparisons with upstream, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from comparisons import Figure, autoencoder, micro, sampling, schedules, transformer
from upstream import Upstream
from whole_engine import whole_engine

COMPARISONS: dict[str, Callable[[Upstream], Iterator[Figure]]] = {
    "transformer": transformer,
    "schedules": schedules,
    "sampling": sampling,
    "autoencoder": autoencoder,
    "micro": micro,
    "engine": whole_engine,
}
