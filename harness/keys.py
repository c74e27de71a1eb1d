"""What a render depends on, and the key made of it. Labels (case and variant names) are not in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backends.base import Case, TraceOptions, Variant
from backends.environment import CODE
from backends.micro import MODELS, checkpoint_path, media_path
from harness.errors import ConfigError
from harness.integrity import file_sha256
from harness.records import SCHEMA_VERSION
from harness.store import content_key

PATH_OPTIONS = ("lora", "checkpoint", "config", "text_encoder", "repo", "inference_config")
"""Backend options that name files or folders of this machine, or a micro LoRA."""


@cache
def model_fingerprint(model: str) -> str:
    """Identify a model's files: their hashes for a folder, the cached commit for a hub id.

    Raises `ConfigError` when `model` is none of: a micro model, a folder, an `owner/name` hub id.
    """
    folder = checkpoint_path(model)
    if folder.is_dir():
        return path_digest(str(folder))
    owner, _, name = model.partition("/")
    if model.startswith((".", "/", "~")) or not owner or not name or "/" in name:
        raise ConfigError(
            f"model {model!r} was not found: it is no micro model ({', '.join(MODELS)}), no folder"
            " here, and no hub id of the form owner/name; correct `model` of the case"
        )
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache_root = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    commit = cache_root / f"models--{owner}--{name}" / "refs" / "main"
    return f"hub:{model}@{commit.read_text().strip() if commit.is_file() else 'unresolved'}"


@cache
def path_digest(given: str) -> str:
    """Identify what lies under a path: a file, a folder, or a folder of code by its Python sources."""
    path = checkpoint_path(given)
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        return "missing"
    sources = sorted(path.rglob("*.py")) if any(path.glob("*.py")) else []
    files = sources or sorted(p for p in path.rglob("*") if p.is_file())
    return content_key({str(p.relative_to(path)): file_sha256(p) for p in files})


@cache
def plugin_digest(module: str) -> str:
    """Hash of a plugin module's source, without running it. Raises `ConfigError` if absent."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"--plugin {module}: no such module; give the name of a module in the current folder or"
            " an installed one, without .py"
        )
    return file_sha256(Path(spec.origin))


def _option_contents(options: Mapping[str, Any]) -> dict[str, str]:
    """What stands behind the options that name files or folders: a path alone does not say it."""
    given = {name: value for name, value in options.items() if isinstance(value, str)}
    found = {name: path_digest(given[name]) for name in PATH_OPTIONS if name in given}
    if "transformer" in given:
        found["transformer"] = model_fingerprint(given["transformer"])
    return found


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
            content[name] = file_sha256(media_path(content[name]))
    return {
        "schema": SCHEMA_VERSION,
        "case": content,
        "backend": variant.backend,
        "options": variant.options | _option_contents(variant.options),
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
