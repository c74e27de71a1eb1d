"""Jobs of sweeps that need not be carried out again: nothing that they depend on has changed.

    <store>/finished/<kk>/<fingerprint>.json    an `Outcome`

A fingerprint covers the verb, the configuration, the keys of all renders, and the source of the
harness itself, so that a verdict is made again when the program that made it changes.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TypedDict

import harness
from harness.config.config import RunConfig
from harness.errors import WorkerError, explained_writing
from harness.render.addresses import Addresses
from harness.render.plan import make_plan
from harness.store.digests import file_digest
from harness.store.store import Store, content_key
from harness.workers.interpreter import describe_worker


class Outcome(TypedDict):
    """How a job ended: its overrides, its exit code, and the command that it was part of."""

    overrides: list[str]
    exit_code: int
    command: str


def fingerprint(verb: str, config: RunConfig, plugins: tuple[str, ...], store: Store) -> str | None:
    """What identifies a finished job; None unless all its renders are in the store, undamaged."""
    addresses = Addresses(store, plugins)
    renders: list[str] = []
    for job in make_plan(config).jobs:
        try:
            environment = describe_worker(job.python, job.threads)
        except WorkerError:
            return None
        address = addresses.of(job, environment)
        if address.missing or not address.known:
            return None
        record = store.attempted(address.key)
        if record is None or record.status not in ("ok", "unsupported"):
            return None
        if record.status == "ok" and not (
            store.whole("renders", address.key)
            and address.own is not None
            and store.has_inputs(address.own)
        ):
            return None
        renders.append(address.key)
    return content_key(
        {
            "verb": verb,
            "config": config.model_dump(mode="json"),
            "renders": renders,
            "program": _program(),
        }
    )


def recall(store: Store, key: str) -> Outcome | None:
    """The outcome of the finished job `key`, if there is one."""
    try:
        return json.loads(_path(store, key).read_text())
    except (OSError, ValueError):
        return None


def remember(store: Store, key: str, outcome: Outcome) -> None:
    """Keep the outcome of a finished job."""
    path = _path(store, key)
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{secrets.token_hex(4)}")
        partial.write_text(json.dumps(outcome))
        partial.replace(path)


def _path(store: Store, key: str) -> Path:
    return store.folder("finished", key).with_suffix(".json")


def _program() -> str:
    sources = sorted(Path(harness.__file__).parent.rglob("*.py"))
    return content_key({path.name + str(at): file_digest(path) for at, path in enumerate(sources)})
