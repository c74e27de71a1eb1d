"""Checkpoints that tools of users leave behind, made from the micro models when first asked for.

    converted           micro-5b to SAT's format and back to Diffusers'
    converted_as_2b     the same by a converter that writes the VAE's configuration with its class's
                        defaults, which are those of the 2B
    zero_rate           micro-5b-i2v fine-tuned for one step at learning rate 0, and saved
    zero_rate_unloaded  the same by a trainer that builds the learned position table anew and does
                        not load it

An option, or a command, names one as `made:NAME`. They lie in the user's cache folder under a digest
of this file and of the model, so that a change of either makes them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from backends.errors import CheckpointError
from backends.micro import model_path

_TEXT_TO_VIDEO, _PICTURE_TO_VIDEO = "micro-5b", "micro-5b-i2v"
_SCALING_FACTOR = 1.15258426
"""The default of Diffusers' `AutoencoderKLCogVideoX`."""


def made(name: str) -> Path:
    """The folder of checkpoint `name`, made if it is not there. Raises `CheckpointError`."""
    if name not in _RECIPES:
        raise CheckpointError(f"no checkpoint made:{name}; known: {', '.join(_RECIPES)}")
    model, recipe = _RECIPES[name]
    base = model_path(model)
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "parity" / "made"
    folder = home / f"{name}-{_digest(base)[:16]}"
    if folder.is_dir():
        return folder
    partial = home / f".{name}.{secrets.token_hex(4)}"
    try:
        partial.mkdir(parents=True)
        recipe(base, partial)
        partial.replace(folder)
    except OSError as error:
        if not folder.is_dir():  # another process may have made it meanwhile
            raise CheckpointError(
                f"made:{name} cannot be written to {home} ({error.strerror or error}); set"
                " XDG_CACHE_HOME to a folder that can be written"
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _digest(base: Path) -> str:
    found = hashlib.sha256()
    files = sorted(path for path in base.rglob("*") if path.is_file())
    for path in (Path(__file__), *files):
        found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _converted(base: Path, folder: Path) -> None:
    from backends.checkpoints import convert

    convert(base, folder / "sat", "sat")
    back = convert(folder / "sat", folder / "diffusers", "diffusers").destination
    shutil.rmtree(folder / "sat")
    for entry in list(back.iterdir()):
        entry.replace(folder / entry.name)
    back.rmdir()


def _converted_as_2b(base: Path, folder: Path) -> None:
    _converted(base, folder)
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text()) | {"scaling_factor": _SCALING_FACTOR}
    path.write_text(json.dumps(config, indent=2))


def _zero_rate(base: Path, folder: Path, *, load_positions: bool = True) -> None:
    """One AdamW step with learning rate 0 through Diffusers' own load and save."""
    import torch

    from backends.noise import standard_normal
    from backends.roundtrip.check import zero_rate_step
    from backends.roundtrip.drive_diffusers import DiffusersDriver
    from backends.roundtrip.function import natural_sizes, recorded_call

    driver = DiffusersDriver(base, None, {"dtype": "bfloat16", "device": "cpu"}, metadata=True)
    pipeline = driver.open()
    try:
        network = driver.network(pipeline)
        if not load_positions:
            table = network.get_buffer("patch_embed.pos_embedding")
            # As `torch.nn.Embedding` begins.
            table.copy_(torch.from_numpy(standard_normal(0, 0, tuple(table.shape))))
        _, again = recorded_call(pipeline, network, natural_sizes(base))
        zero_rate_step(driver.trainable(pipeline), again)
        network.save_pretrained(str(folder / "transformer"))  # pyright: ignore[reportCallIssue]
    finally:
        pipeline.close()


def _zero_rate_unloaded(base: Path, folder: Path) -> None:
    _zero_rate(base, folder, load_positions=False)


_RECIPES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "converted": (_TEXT_TO_VIDEO, _converted),
    "converted_as_2b": (_TEXT_TO_VIDEO, _converted_as_2b),
    "zero_rate": (_PICTURE_TO_VIDEO, _zero_rate),
    "zero_rate_unloaded": (_PICTURE_TO_VIDEO, _zero_rate_unloaded),
}
