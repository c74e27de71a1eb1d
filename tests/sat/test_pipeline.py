"""The opened backend: light to import, quiet, no port, and the same weights as in the folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.errors import InvalidRequest
from backends.sat.options import parse_options

ROOT = Path(__file__).parents[2]

OPENS = """
import os, sys, torch
from pathlib import Path
from backends import registry
backend = registry.load("sat")
assert not {"sat", "transformers", "deepspeed"} & set(sys.modules), "importing the adapter is heavy"
pipeline = backend.open(sys.argv[1], {"device": "cpu"})
files = Path("/proc/self/fd")
links = [os.readlink(e) for e in files.iterdir() if e.exists()] if files.exists() else []
assert not [link for link in links if "socket" in link], links
pipeline.close()
assert not torch.distributed.is_initialized()
"""


def test_importing_and_opening_is_light_quiet_and_needs_no_network() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", OPENS, "micro-2b"], capture_output=True, text=True, cwd=ROOT,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""


def test_a_converted_folder_opens_to_the_same_weights(tmp_path: Path) -> None:
    from backends.checkpoints import convert
    from backends.micro import model_path
    from backends.sat.adapter import SatBackend

    convert(model_path("micro-5b"), tmp_path / "sat", "sat")
    direct = SatBackend().open("micro-5b", {"device": "cpu"})
    converted = SatBackend().open("none", {"device": "cpu", "checkpoint": str(tmp_path / "sat")})
    assert converted.identity() == direct.identity()
    direct.close()
    converted.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtyp": "float32"}, "did you mean 'dtype'"),
        ({"dtype": "fp32"}, "expected one of float32"),
        ({"allow_tf32": 1}, "true or false"),
        ({"checkpoint": 3}, "a path or null"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_options(options)
