"""Compose the YAML files and the command line's overrides, with Hydra, into one plain tree.

Hydra's errors speak to its programmers; here each becomes a `ConfigError` for a user.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from backends.errors import suggest
from backends.worker.extras import missing, needs
from harness.config.folders import choices, groups
from harness.config.named_code import refuse_named_code
from harness.errors import ConfigError

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
_LAUNCHERS = {"joblib": "joblib", "submitit": "slurm"}
"""The extras that bring Hydra's launchers, by the names of these."""


def compose_tree(overrides: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """The whole configuration as plain values, and no code named in it. Raises `ConfigError`."""
    with _explained(overrides, folders):
        composed = _compose(overrides, folders, with_hydra=True)
        refuse_named_code(cast("dict[str, Any]", OmegaConf.to_container(composed)))
        with open_dict(composed):
            del composed["hydra"]
        return to_tree(composed)


def split_sweep(overrides: Sequence[str], folders: Sequence[Path]) -> list[list[str]]:
    """The overrides of every job of a sweep, in order. Raises `ConfigError`."""
    with _explained(overrides, folders):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        return [list(job) for job in product(*[_alternatives(override) for override in parsed])]


def sweep_folder(overrides: Sequence[str], folders: Sequence[Path]) -> Path:
    """Where Hydra will put a sweep's own files; `overrides` are those of one of its jobs."""
    with _explained(overrides, folders):
        composed = _compose(overrides, folders, with_hydra=True)
        if OmegaConf.select(composed, "hydra.launcher.n_jobs") == 0:
            raise ConfigError(
                "`hydra.launcher.n_jobs`: 0 jobs at once would start none; give at least 1, or -1 for"
                " one on every processor"
            )
        return Path(OmegaConf.select(composed, "hydra.sweep.dir"))


def search_path_override(folders: Sequence[Path]) -> list[str]:
    """The override with which Hydra searches the folders behind the first, its primary one."""
    escaped = [str(folder).replace("\\", r"\\").replace("'", r"\'") for folder in folders[1:]]
    listed = ",".join(f"'file://{path}'" for path in escaped)
    return [f"hydra.searchpath=[{listed}]"] if escaped else []


def to_tree(config: DictConfig) -> dict[str, Any]:
    """Resolve a composed configuration and turn it into plain values."""
    return cast(
        "dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    )


def _compose(
    overrides: Sequence[str], folders: Sequence[Path], *, with_hydra: bool = False
) -> DictConfig:
    everything = [*search_path_override(folders), *overrides]
    with initialize_config_dir(config_dir=str(folders[0]), version_base=VERSION_BASE):
        return compose(CONFIG_NAME, everything, return_hydra_config=with_hydra)


def _alternatives(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        raise ConfigError(f"cannot sweep over {override.input_line!r}: list the values, key=a,b,c")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


@contextmanager
def _explained(overrides: Sequence[str], folders: Sequence[Path]) -> Generator[None]:
    try:
        yield
    except OverrideParseException as error:
        raise ConfigError(
            f"cannot read {error.override!r}: {str(error).splitlines()[0]}. Settings are written"
            " key=value, and quoted for the shell as in 'case=[micro_2b,micro_5b]'"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"a configuration file is not valid YAML: {error}") from error
    except ConfigError:
        raise
    except RecursionError as error:
        raise ConfigError("the settings are nested too deeply to be read") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(str(error), overrides, folders)) from error
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    except (TypeError, AttributeError, LookupError, AssertionError) as error:
        # Hydra and OmegaConf end so on some settings and files that nobody foresaw.
        raise ConfigError(
            f"the settings cannot be composed ({type(error).__name__}: {error}); leave out one after"
            " the other to find which"
        ) from error


def _explain(message: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    if found := re.search(r"Could not (?:find|load) 'hydra/launcher/([^']+)'", message):
        package = found[1].partition("_")[0]
        if (extra := _LAUNCHERS.get(package)) is not None:
            return needs(extra, missing(extra))
        # A name of a package is not made up: somebody else may have taken it.
        return (
            f"there is no launcher {found[1]!r} here; there are"
            f" {', '.join(choices('hydra/launcher', folders))}. Others are packages of their own, which"
            " Hydra's documentation lists"
        )
    if found := re.search(r"Could not (?:find|load) '([^']+?)/([^']+)'", message):
        group, name = found.groups()
        return f"there is no {group} {name!r}{suggest(name, choices(group, folders))}"
    if found := re.search(r"Could not override '([^']+)'", message):
        return _explain_key(found[1], overrides, folders)
    if "Ambiguous value" in message or "requires --multirun" in message:
        line = message.splitlines()[0].rstrip(".")
        return f"{line}. For a list write key=[a,b]; to run once for each value add -m"
    return " ".join(message.split())


def _explain_key(key: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """Say which part of `key` does not exist, and what does in its place."""
    rest = [line for line in overrides if line.split("=")[0] != key]
    if len(rest) == len(overrides):
        return f"there is no key `{key}` to override"
    with _explained(rest, folders):
        node: Any = OmegaConf.to_container(_compose(rest, folders, with_hydra=True))
    known = {*node, *groups(folders)} - {"hydra"}
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if not isinstance(node, Mapping) or part not in node:
            missing = ".".join([*parents[:depth], part])
            return f"there is no key `{missing}`{suggest(part, known)}"
        node = cast("Mapping[str, Any]", node)[part]
        known = set(cast("Mapping[str, Any]", node)) if isinstance(node, Mapping) else set[str]()
    return f"there is no key `{key}`{suggest(last, known)}"
