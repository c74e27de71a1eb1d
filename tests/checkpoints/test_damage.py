"""Folders that are missing, damaged, hostile or half-written: one clear message, nothing left behind."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_pipelines import save_pipeline

from backends.checkpoints import canonical_state, conversion, convert
from backends.errors import CheckpointError, InvalidRequest


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good folder of each format."""
    root = tmp_path_factory.mktemp("good")
    convert(save_pipeline(root / "diffusers", "5b"), root / "sat", "sat")
    return {name: root / name for name in ("diffusers", "sat")}


class Bomb:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch bomb_went_off",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path) -> None:
    torch.save({"module": {"model.diffusion_model.x": Bomb()}}, path)


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def wrong_key(path: Path) -> None:
    torch.save({"weights": {"x": torch.zeros(1)}}, path)


STATES = "transformer/1/mp_rank_00_model_states.pt"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("kind", "file", "damage", "says"),
    [
        ("sat", STATES, Path.unlink, "does not exist"),
        ("sat", STATES, cut, "cannot be read as a torch file"),
        ("sat", STATES, pointer, "mp_rank_00_model_states.pt"),
        ("sat", STATES, bomb, "could run code"),
        ("sat", "vae/3d-vae.pt", bomb, "could run code"),
        ("sat", "vae/3d-vae.pt", wrong_key, "no tensors under 'state_dict'"),
        ("sat", "transformer/latest", Path.unlink, "neither a Diffusers pipeline"),
        ("sat", "cogvideox.yaml", Path.unlink, "YAML"),
        ("sat", "t5-v1_1-xxl/model.safetensors", Path.unlink, "has no weights"),
        ("sat", "parity_conversion.json", cut, "delete it to convert without"),
        ("diffusers", TRANSFORMER, Path.unlink, "has no weights"),
        ("diffusers", TRANSFORMER, cut, "is damaged"),
        ("diffusers", TRANSFORMER, pointer, "cannot be read as safetensors"),
        ("diffusers", "vae/config.json", cut, "not (valid )?JSON"),
        ("diffusers", "scheduler/scheduler_config.json", Path.unlink, "cannot read"),
        ("diffusers", "model_index.json", Path.unlink, "neither a Diffusers pipeline"),
    ],
)
def test_damage_is_named_and_leaves_nothing(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    file: str,
    damage: Callable[[Path], None],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = shutil.copytree(folders[kind], tmp_path / "source")
    damage(source / file)
    with pytest.raises(CheckpointError, match=says) as caught:
        convert(source, tmp_path / "out", "diffusers" if kind == "sat" else "sat")
    assert str(source) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_a_diffusers_torch_file_with_code_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = shutil.copytree(folders["diffusers"], tmp_path / "source")
    (source / TRANSFORMER).unlink()
    (source / "transformer" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin"):
        canonical_state(source)
    assert not (tmp_path / "bomb_went_off").exists()


def test_unknown_tensors_are_listed_with_their_file_s_component(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    source = shutil.copytree(folders["sat"], tmp_path / "source")
    module = torch.load(source / STATES, weights_only=True)["module"]
    name = "model.diffusion_model.transformer.layers.0.attention.query_key_value.matrix_A.0"
    del module["model.diffusion_model.time_embed.0.bias"]
    torch.save({"module": {**module, name: torch.zeros(1)}}, source / STATES)
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "out", "diffusers")
    assert "1 without a rule: transformer.layers.0.attention.query_key_value.matrix_A.0" in str(
        caught.value
    )
    assert "1 missing: time_embed.0.bias" in str(caught.value)


def test_a_destination_that_holds_something_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidRequest, match="not empty"):
        convert(folders["sat"], tmp_path / "out", "diffusers")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_an_empty_destination_is_used(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(folders["sat"], tmp_path / "out", "diffusers")
    assert (tmp_path / "out" / "model_index.json").is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_converting_to_the_same_format_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="already has format 'sat'"):
        convert(folders["sat"], tmp_path / "out", "sat")


@pytest.mark.parametrize("to", ["sat", "diffusers"])
def test_a_failing_writer_leaves_nothing_half_written(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(conversion, f"write_{to}", fail)
    source = folders["diffusers" if to == "sat" else "sat"]
    with pytest.raises(OSError, match="No space"):
        convert(source, tmp_path / "out", "sat" if to == "sat" else "diffusers")
    assert not list(tmp_path.iterdir())


def test_a_bit_lost_on_the_way_to_the_disk_is_noticed(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = conversion.write_diffusers

    def lose(
        path: Path, texts: dict[str, str], components: dict[str, dict[str, torch.Tensor]]
    ) -> None:
        rounded = {name: t.half().to(t.dtype) for name, t in components["vae"].items()}
        write(path, texts, {**components, "vae": rounded})

    monkeypatch.setattr(conversion, "write_diffusers", lose)
    with pytest.raises(CheckpointError, match="vae read back from the new folder differs"):
        convert(folders["sat"], tmp_path / "out", "diffusers")
    assert not list(tmp_path.iterdir())


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, backends.checkpoints; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
