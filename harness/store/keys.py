"""What a render is declared to depend on, and the key made of it: known before anything is run.

Labels (case and variant names) are not in it. What else a render read is added afterwards
(`harness.store.closure`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backends.base import Case, TraceOptions, Variant
from backends.micro import MODELS, checkpoint_path, media_path
from backends.worker.environment import CODE
from harness.errors import ConfigError
from harness.records import SCHEMA_VERSION
from harness.store.digests import file_digest, tree_digests
from harness.store.store import content_key

_THIS_PROCESS = secrets.token_hex(8)


def model_fingerprint(model: str) -> Any:
    """Identify a model's files: the digest of each for a folder, all cached commits for a hub id.

    Raises `ConfigError` when `model` is none of: a micro model, a folder, an `owner/name` hub id.
    """
    folder = checkpoint_path(model)
    if folder.is_dir():
        return tree_digests(folder)
    cached = _hub_commits(model)
    if cached is None:
        raise ConfigError(
            f"model {model!r} was not found: it is no micro model ({', '.join(MODELS)}), no folder"
            " here, and no hub id of the form owner/name; correct `model` of the case"
        )
    return {"hub": model, "commits": cached}


def named_content(value: object) -> Any:
    """What stands behind a text that names something here: a file, a folder, or a hub id whose files
    are cached; None for one that names nothing. A path alone does not say what lies there."""
    if not isinstance(value, str) or not value:
        return None
    path = checkpoint_path(value)
    try:
        if path.is_file():
            return file_digest(path)
        if path.is_dir():
            return tree_digests(path)
    except (OSError, ValueError):  # no path at all: too long, or with a zero in it
        return None
    return _hub_commits(value)


def _hub_commits(name: str) -> dict[str, Any] | None:
    """The commits to which the branches and tags of a hub id resolve, in every cache that may be in
    force; None if this is no hub id.

    One that resolves to nothing yet will be fetched, so what is made of it is under a key of its own.
    """
    owner, _, rest = name.partition("/")
    if name.startswith((".", "/", "~")) or not owner or not rest or "/" in rest:
        return None
    found: dict[str, Any] = {}
    for cache in _hub_caches():
        refs = cache / f"models--{owner}--{rest}" / "refs"
        for ref in sorted(refs.rglob("*")) if refs.is_dir() else []:
            if ref.is_file():
                found[str(ref)] = ref.read_text().strip()
    return found or {"unresolved": _THIS_PROCESS}


def _hub_caches() -> list[Path]:
    """The folders in which the hub's library looks, by any of the variables that name one."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = [os.environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")]
    hub = os.environ.get("HF_HOME") or f"{home}/huggingface"
    return [Path(given).expanduser() for given in (*named, f"{hub}/hub") if given]


def plugin_digest(module: str) -> Any:
    """The sources of a plugin, without running it: its file, or every file of its package.

    Raises `ConfigError` if it is absent.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"--plugin {module}: no such module; give the name of a module in the current folder or"
            " an installed one, without .py"
        )
    folders = spec.submodule_search_locations or ()
    return [file_digest(spec.origin), *(tree_digests(folder) for folder in folders)]


def _base(
    case: Case,
    variant: Variant,
    environment: Mapping[str, str],
    threads: int | None,
    plugins: Sequence[str],
) -> dict[str, Any]:
    content = asdict(case)
    del content["name"]
    content["model"] = model_fingerprint(case.model)
    for name in ("image", "video"):
        if content[name] is not None:
            content[name] = file_digest(media_path(content[name]))
    return {
        "schema": SCHEMA_VERSION,
        "case": content,
        "backend": variant.backend,
        "options": variant.options,
        "named": {name: named_content(value) for name, value in variant.options.items()},
        "patch": variant.patch,
        "plugins": [plugin_digest(p) for p in plugins] if variant.patch else [],
        "environment": {
            name: value
            for name, value in environment.items()
            if not name.startswith(CODE) or name == CODE + variant.backend
        },
        "threads": threads,
    }


def inputs_key(
    case: Case,
    variant: Variant,
    environment: Mapping[str, str],
    threads: int | None,
    plugins: Sequence[str],
) -> str:
    """Key of what `variant` itself would use for `case`: text embeddings and schedule."""
    return content_key({"kind": "inputs"} | _base(case, variant, environment, threads, plugins))


def render_key(
    case: Case,
    variant: Variant,
    environment: Mapping[str, str],
    threads: int | None,
    plugins: Sequence[str],
    seed: int,
    repeat: int,
    share: Sequence[str],
    inputs_digest: str | None,
    trace: TraceOptions,
    member: str,
) -> str:
    """Key of one render. `inputs_digest` is the hash of the shared inputs' content, if any."""
    return content_key(
        {
            "kind": "render",
            "seed": seed,
            "repeat": repeat,
            "share": sorted(share),
            "inputs": inputs_digest,
            "trace": asdict(trace),
            "member": member,
        }
        | _base(case, variant, environment, threads, plugins)
    )


def probe_key(
    case: Case,
    variant: Variant,
    environment: Mapping[str, str],
    threads: int | None,
    plugins: Sequence[str],
    questions: Sequence[Mapping[str, Any]],
    given: Mapping[str, str],
    inputs: Sequence[str] | None,
    shared: Sequence[str],
) -> str:
    """Key of one probe. `given` are digests of its tensors, `inputs` those of the shared file."""
    return content_key(
        {
            "kind": "probe",
            "questions": list(questions),
            "given": dict(given),
            "inputs": inputs,
            "shared": list(shared),
        }
        | _base(case, variant, environment, threads, plugins)
    )
