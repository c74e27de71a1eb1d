"""What `run`, `render`, `score` and `judge` have in common: settings, options, and sweeps."""

from __future__ import annotations

import argparse
import contextlib
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.request import Job, Request, warning
from harness.config.folders import choices, conf_folders, groups
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.config.config import RunConfig

_SETTINGS = """\
settings are Hydra overrides, and follow the verb in any order:
  group=choice             choose a file:         reference=sat  experiment=demo
  group=[a,b]              choose several:        'case=[micro_2b,micro_5b]'
  key=value                change one value:      reference.dtype=bfloat16
  +group@key=choice        add one more variant:  +backend@candidates.half=diffusers
  -m key=a,b               run once for each:     -m match=shared,native
  -m hydra/launcher=L      in parallel:           {launchers}

choices:
"""


def add_settings(parser: argparse.ArgumentParser, description: str, examples: str) -> None:
    """The arguments of a verb that takes a configuration."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="SETTING", help="a choice or a value, see below")
    add("-m", "--multirun", action="store_true", help="run once for each combination of a,b values")
    add("--again", action="store_true", help="carry out jobs of a sweep even if the same job was"
        " finished before")  # fmt: skip
    add("--plugin", action="append", default=[], metavar="MODULE", help="a module whose patches"
        " variants may name; repeatable")  # fmt: skip
    add("--config-dir", type=Path, metavar="DIR", help="a folder with case/, candidate/, ... of"
        " your own, which adds to the shipped one")  # fmt: skip
    folders = conf_folders(None)
    listed = "\n".join(
        textwrap.fill(
            ", ".join(choices(group, folders)) or "none",
            width=79,
            initial_indent=f"  {group:<11}",
            subsequent_indent=" " * 13,
        )
        for group in groups(folders)
    )
    parser.description = description
    launchers = ", ".join(choices("hydra/launcher", folders))
    settings = _SETTINGS.format(launchers=launchers)
    parser.epilog = f"{settings}{listed}\n\nexamples:\n{examples}"


def carry_out(args: argparse.Namespace, verb: str, job: Job) -> int:
    """Compose what `args` says and do `job` once, or once for each combination of a sweep."""
    from harness.audit.hazards import hazards
    from harness.config.compose import compose_tree
    from harness.config.config import build
    from harness.doctor.environment import check_environment, check_installed

    request = Request(tuple(args.settings), tuple(args.plugin), _command_line(args, verb))
    folders = conf_folders(args.config_dir)
    _check_plugins(request.plugins)
    check_environment()
    if args.multirun:
        from harness.commands.sweep import sweep  # it imports Hydra

        return sweep(request, folders, job, verb, again=args.again)
    config = build(compose_tree(request.overrides, folders))
    check_installed([config])
    _check_patches(config, request)
    for hazard in hazards(config):
        print(warning(hazard), file=sys.stderr)
    return job(config, request)


def _check_plugins(plugins: tuple[str, ...]) -> None:
    """Fail now rather than in the first worker; a plugin may lie in the current folder."""
    if not plugins:
        return
    from harness.store.keys import plugin_digest

    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for plugin in plugins:
        named = all(part.isidentifier() for part in plugin.split("."))
        with contextlib.suppress(ImportError):  # of a package that the module is said to lie in
            if named:
                plugin_digest(plugin)
                continue
        raise ConfigError(
            f"--plugin {plugin}: there is no such module; give the name of one in the current folder"
            " or an installed one, without .py and without a path"
        )


def _check_patches(config: RunConfig, request: Request) -> None:
    """A patch lies in a plugin; without one, no worker can know it."""
    for spec in (config.reference, *config.candidates):
        if spec.patch is not None and not request.plugins:
            raise ConfigError(
                f"variant {spec.name!r}: there is no patch {spec.patch!r} without a plugin that"
                " registers it; name its module with --plugin"
            )


def _command_line(args: argparse.Namespace, verb: str) -> tuple[str, ...]:
    line = ["parity", verb, *args.settings]
    line += ["--multirun"] if args.multirun else []
    line += ["--again"] if args.again else []
    for plugin in args.plugin:
        line += ["--plugin", plugin]
    if args.config_dir is not None:
        line += ["--config-dir", str(args.config_dir)]
    return tuple(line)
