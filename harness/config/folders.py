"""Where the configuration files lie, and what can be chosen from them. Reads no YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import harness
from harness.errors import ConfigError


def shipped_folder() -> Path:
    """The project's own `conf/`: inside the package when installed, beside it in a checkout."""
    package = Path(harness.__file__).parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"the configuration files that belong to this installation are missing: there is no conf"
        f" folder in {package} or beside it; install the project again"
    )


def conf_folders(config_dir: Path | None) -> list[Path]:
    """Folders to search: the shipped one, and the user's own, which may add to it but not replace.

    A name in a shared result then always means the same settings.
    """
    shipped = shipped_folder()
    if config_dir is None:
        return [shipped]
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
    for path in sorted(config_dir.rglob("*.yaml")):
        name = path.relative_to(config_dir)
        if (shipped / name).exists():
            raise ConfigError(
                f"--config-dir {config_dir}: {name} has the name of a file that comes with parity"
                " and would not be read; give it another name"
            )
    return [shipped, config_dir.resolve()]


def groups(folders: Sequence[Path]) -> list[str]:
    """The names of the config groups."""
    found = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    return sorted(found - {"hydra"})


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """What can be chosen from `group`."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
