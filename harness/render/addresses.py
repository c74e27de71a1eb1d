"""Where a render lies in the store: its key, and the keys of the inputs that it makes and takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.render.plan import RenderJob
from harness.store import keys
from harness.store.closure import Closure
from harness.store.digests import file_digest
from harness.store.store import Store


@dataclass(frozen=True)
class Address:
    """Where a render lies, and what its variant itself would use (`own`), and what it takes (`inputs`).

    `key`, `own` and `inputs` are true keys. `declared` and `own_declared` are known before anything
    is run, and leases are held on them. `known`: what the render reads is known, so that `key` is its
    true key; else it is the declared one, under which only attempts lie that failed without telling.
    `missing`: it takes inputs that are not in the store.
    """

    key: str
    declared: str
    known: bool
    own: str | None
    own_declared: str
    inputs: str | None
    missing: bool


class Addresses:
    """Addresses of jobs, whose references must have been asked for before their candidates."""

    def __init__(self, store: Store, plugins: tuple[str, ...]) -> None:
        self._store, self._plugins = store, plugins
        self._exported: dict[str, str] = {}
        self.closure = Closure(store)

    def of(self, job: RenderJob, environment: Mapping[str, str]) -> Address:
        """The address of `job` in `environment`."""
        base = (job.case, job.variant, environment, job.threads, self._plugins)
        own = keys.inputs_key(*base)
        if job.exports:
            self._exported[job.source] = own
        exported = self._exported.get(job.source) if job.share else None
        inputs = None if exported is None else self.closure.key(exported)
        missing = bool(job.share) and (inputs is None or not self._store.has_inputs(inputs))
        digest = None if missing or inputs is None else self._digest(inputs)
        declared = keys.render_key(
            *base, job.seed, job.repeat, job.share, digest, job.trace, job.member
        )
        key = self.closure.key(declared)
        return Address(
            key or declared,
            declared,
            key is not None,
            self.closure.key(own),
            own,
            inputs,
            missing,
        )

    def _digest(self, key: str) -> str:
        path = self._store.inputs_path(key)
        return file_digest(path) + file_digest(path.with_suffix(".json"))
