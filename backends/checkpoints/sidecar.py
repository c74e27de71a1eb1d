"""What one format cannot say, kept beside the other so that a conversion back is exact.

A converted folder holds `parity_conversion.json` with the configuration texts of the folder it came
from, which both stacks ignore. The folder's own files always win: on the way back the stored texts
are used as they are only while they still say the same, and otherwise fill in what is not said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.errors import CheckpointError

NAME = "parity_conversion.json"


@dataclass(frozen=True)
class SatOrigin:
    """What a Diffusers folder keeps of the SAT folder that it came from.

    `tables` are the dtypes of the tensors that only SAT stores, by name (`one_sided`).
    """

    config_name: str
    config_text: str
    iteration: str
    tables: Mapping[str, str]


@dataclass(frozen=True)
class Sidecar:
    """Exactly one of the two is set: the side that the folder came from."""

    sat: SatOrigin | None = None
    diffusers: Mapping[str, str] | None = None

    def write(self, folder: Path) -> None:
        """Write into a converted folder."""
        (folder / NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_sidecar(folder: Path) -> Sidecar:
    """The sidecar of `folder`, empty if there is none. Raises `CheckpointError` if damaged."""
    path = folder / NAME
    if not path.is_file():
        return Sidecar()
    try:
        values = json.loads(path.read_text())
        origin = values["sat"]
        return Sidecar(origin and SatOrigin(**origin), values["diffusers"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it to convert without the"
            " settings that it kept"
        ) from error
