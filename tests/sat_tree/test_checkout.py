"""Folders that are, nearly are, and are not CogVideo's `sat`, and what a user is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fake_checkout import write_checkout

from backends import registry
from backends.errors import InvalidRequest, MissingPrerequisite, Unsupported
from backends.sat.tree import checkout
from backends.sat.tree.checkout import CogVideoCode, code_digest, find_checkout
from backends.worker.extras import EXTRAS, Extra


@pytest.fixture
def nothing_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake code imports nothing, so its packages need not be here."""
    monkeypatch.setattr(checkout, "missing", lambda _: [])


def test_a_wrong_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere.*no such folder"):
        find_checkout(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidRequest, match=r"has no diffusion_video\.py.*THUDM/CogVideo"):
        find_checkout(str(tmp_path))


def test_the_folder_above_gets_a_hint(tmp_path: Path) -> None:
    below = write_checkout(tmp_path / "sat")
    with pytest.raises(InvalidRequest, match=f"did you mean {below}"):
        find_checkout(str(tmp_path))
    assert find_checkout(str(below)) == below.resolve()


def test_the_option_is_checked_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="option repo"):
        registry.load("sat").check({"repo": str(tmp_path)})


def test_missing_packages_are_named_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {"no_such_one": "one", "torch": "torch", "no_such_two": "two"}
    monkeypatch.setitem(EXTRAS, "cogvideo", Extra("option `repo`", packages))
    folder = write_checkout(tmp_path)
    with pytest.raises(MissingPrerequisite, match=r"one and two.*pip install .*\[cogvideo\]"):
        registry.load("sat").check({"repo": str(folder)})


@pytest.mark.usefixtures("nothing_required")
@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("import no_such_package.part", MissingPrerequisite, "pip install no_such_package"),
        ("import sgm.gone", InvalidRequest, r"incomplete.*sgm\.gone"),
        ("from torch import no_such_name", Unsupported, "no_such_name"),
        ("this is no Python", Unsupported, "SyntaxError"),
    ],
)
def test_code_that_does_not_import(
    tmp_path: Path, line: str, kind: type[Exception], words: str
) -> None:
    folder = write_checkout(tmp_path, diffusion_video=line)
    with pytest.raises(kind, match=words):
        CogVideoCode(folder)
    _nothing_of(folder)


@pytest.mark.usefixtures("nothing_required")
def test_one_checkout_at_a_time_and_nothing_left(tmp_path: Path) -> None:
    first, second = (write_checkout(tmp_path / name) for name in ("first", "second"))
    opened, again = CogVideoCode(first), CogVideoCode(first)
    assert opened.util is again.util and Path(opened.util.__file__).is_relative_to(first)
    with pytest.raises(InvalidRequest, match="close that pipeline"):
        CogVideoCode(second)
    opened.close()
    opened.close()
    assert "sgm.util" in sys.modules
    again.close()
    _nothing_of(first)
    other = CogVideoCode(second)
    assert Path(other.util.__file__).is_relative_to(second)
    other.close()


@pytest.mark.usefixtures("nothing_required")
def test_a_namesake_is_not_taken_for_cogvideos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sgm", pytest)
    with pytest.raises(InvalidRequest, match="`sgm` that is not CogVideo's"):
        CogVideoCode(write_checkout(tmp_path))


@pytest.mark.usefixtures("nothing_required")
def test_the_generation_is_read_off_the_code(tmp_path: Path) -> None:
    for name, parameter, expected in (("old", "", "1.0"), ("new", "use_cp=True, ", "1.5")):
        text = (
            "class VideoAutoencoderInferenceWrapper:\n"
            f"    def decode(self, z, {parameter}**kwargs): ...\n"
        )
        code = CogVideoCode(write_checkout(tmp_path / name, vae_modules__autoencoder=text))
        assert code.generation == expected
        code.close()


def test_the_digest_knows_every_source(tmp_path: Path) -> None:
    folder = write_checkout(tmp_path)
    before = code_digest(folder)
    (folder / "notes.md").write_text("not code")
    assert code_digest(folder) == before
    (folder / "sgm" / "util.py").write_text("pass\n")
    assert code_digest(folder) != before


def _nothing_of(folder: Path) -> None:
    assert str(folder) not in sys.path
    assert not {"arguments", "diffusion_video", "sample_video", "sgm", "sgm.util"} & set(
        sys.modules
    )
