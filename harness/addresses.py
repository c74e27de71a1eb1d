"""Where a render lies in the store: its key, and the keys of the inputs that it makes and takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness import keys
from harness.plan import RenderJob
from harness.store import Store


@dataclass(frozen=True)
class Address:
    """`key` of the render, `own` of what its variant itself would use, `inputs` of what it takes.

    `missing`: it takes inputs that are not in the store, so that `key` is not its true key.
    """

    key: str
    own: str
    inputs: str | None
    missing: bool


class Addresses:
    """Addresses of jobs, whose references must have been asked for before their candidates."""

    def __init__(self, store: Store, plugins: tuple[str, ...]) -> None:
        self._store, self._plugins = store, plugins
        self._exported: dict[str, str] = {}

    def of(self, job: RenderJob, environment: Mapping[str, str]) -> Address:
        """The address of `job` in `environment`."""
        base = (job.case, job.variant, environment, job.threads, self._plugins)
        own = keys.inputs_key(*base)
        if job.exports:
            self._exported[job.source] = own
        inputs = self._exported.get(job.source) if job.share else None
        missing = bool(job.share) and (inputs is None or not self._store.has_inputs(inputs))
        digest = None if missing or inputs is None else self._digest(inputs)
        key = keys.render_key(*base, job.seed, job.repeat, job.share, digest, job.trace, job.member)
        return Address(key, own, inputs, missing)

    def _digest(self, key: str) -> str:
        path = self._store.inputs_path(key)
        return keys.file_sha256(path) + keys.file_sha256(path.with_suffix(".json"))
