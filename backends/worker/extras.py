"""The extras: packages that one way of working needs and the others do without. Imports none of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from backends.errors import MissingPrerequisite

_DISTRIBUTION = "cogvideox-parity"


@dataclass(frozen=True)
class Extra:
    """What needs it, and the packages that it brings: the module that is imported -> pip's name."""

    serves: str
    packages: Mapping[str, str]


_SAT = {"sat": "SwissArmyTransformer", "einops": "einops", "wandb": "wandb"}

EXTRAS: dict[str, Extra] = {
    "sat": Extra("backend `sat`", _SAT),
    "cogvideo": Extra(
        "option `repo` of backend `sat`",
        {
            **_SAT,
            "pytorch_lightning": "pytorch_lightning",
            "kornia": "kornia",
            "beartype": "beartype",
        },
    ),
    "joblib": Extra(
        "hydra/launcher=parallel",
        {"hydra_plugins.hydra_joblib_launcher": "hydra-joblib-launcher"},
    ),
    "slurm": Extra(
        "hydra/launcher=slurm or =local",
        {"hydra_plugins.hydra_submitit_launcher": "hydra-submitit-launcher"},
    ),
    "export": Extra("parity export", {"pyarrow": "pyarrow"}),
    "mlflow": Extra("parity export --mlflow", {"mlflow": "mlflow-skinny", "pyarrow": "pyarrow"}),
}
"""By the names that pyproject.toml gives them."""


def missing(extra: str) -> list[str]:
    """The packages of `extra`, as pip names them, that this interpreter does not have."""
    return [name for module, name in EXTRAS[extra].packages.items() if not _found(module)]


def needs(extra: str, packages: Collection[str]) -> str:
    """One sentence for a user: what needs `packages`, and the command that installs `extra`."""
    *others, last = packages
    named = f"{', '.join(others)} and {last}" if others else last
    verb = "are" if others else "is"
    return f"{EXTRAS[extra].serves} needs {named}, which {verb} not installed: {command(extra)}"


def command(extra: str) -> str:
    """The command that installs `extra`."""
    return f"pip install '{_DISTRIBUTION}[{extra}]'"


def require(extra: str) -> None:
    """Raise `MissingPrerequisite` if this interpreter lacks a package of `extra`."""
    if absent := missing(extra):
        raise MissingPrerequisite(needs(extra, absent))


def _found(module: str) -> bool:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # of the package that the module is said to lie in
        return False
    # A folder `sat` where the command was started, as in CogVideo's checkout, is no package.
    return spec is not None and spec.origin is not None
