"""Kind L: a model folder, a hub snapshot or a configuration never has code run that it brings or names.

Every attack would write a file if it were run. What Diffusers would make of it plays no part: each is
refused before Diffusers sees the folder.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import backends
from backends.checkpoints.diffusers.weight_files import read_torch_file
from backends.checkpoints.sat.checkpoint import read_tensors
from backends.diffusers.checkpoint import Source, load_pipeline
from backends.errors import CheckpointError, MissingPrerequisite
from backends.micro import model_path
from backends.sat.text import TextConditioner
from harness.cli import main

FLOAT32 = {"default": torch.float32, "transformer": torch.float32}
Attack = Callable[[Path, str], None]


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _own_module(folder: Path, code: str) -> None:
    """A component's own `.py`, as Diffusers' guide to custom components has it."""
    (folder / "transformer" / "mine.py").write_text(f"{code}\nclass Transformer: ...\n")
    _edit(folder / "model_index.json", transformer=["mine", "Transformer"])


def _module_named_like_the_library(folder: Path, code: str) -> None:
    (folder / "transformer" / "diffusers.py").write_text(code)


def _importable_library(folder: Path, code: str) -> None:
    _edit(folder / "model_index.json", vae=["antigravity", "AutoencoderKLCogVideoX"])


def _a_pipeline_module(folder: Path, code: str) -> None:
    """A name that Diffusers looks up among its own modules first."""
    _edit(folder / "model_index.json", scheduler=["stable_diffusion", "CogVideoXDDIMScheduler"])


def _dotted_class(folder: Path, code: str) -> None:
    _edit(folder / "model_index.json", vae=["diffusers", "utils.import_utils.importlib"])


def _custom_pipeline(folder: Path, code: str) -> None:
    (folder / "pipe.py").write_text(code)
    _edit(folder / "model_index.json", _class_name=["pipe", "Pipe"])


def _component_elsewhere(folder: Path, code: str) -> None:
    _edit(folder / "model_index.json", **{"../transformer": ["diffusers", "AutoencoderKL"]})


def _auto_map_of_transformer(folder: Path, code: str) -> None:
    (folder / "transformer" / "mine.txt").write_text(code)
    _edit(folder / "transformer" / "config.json", auto_map={"AutoModel": "mine.Model"})


def _auto_map_of_text_encoder(folder: Path, code: str) -> None:
    _edit(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "who/repo--mine.Model"})


def _auto_map_of_tokenizer(folder: Path, code: str) -> None:
    _edit(
        folder / "tokenizer" / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["mine.Tokenizer", None]},
    )


def _adapter_that_names_another_model(folder: Path, code: str) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "who/else", "peft_type": "LORA"})
    )


def _native_code(folder: Path, code: str) -> None:
    (folder / "vae" / "fast.so").write_bytes(b"\x7fELF")


def _compiled_module(folder: Path, code: str) -> None:
    (folder / "tokenizer" / "inside").mkdir()
    (folder / "tokenizer" / "inside" / "mine.pyc").write_bytes(b"\0")


def _index_is_a_list(folder: Path, code: str) -> None:
    (folder / "model_index.json").write_text("[1]")


ATTACKS: list[Attack] = [
    _own_module, _module_named_like_the_library, _importable_library, _a_pipeline_module, _dotted_class,
    _custom_pipeline, _component_elsewhere, _auto_map_of_transformer, _auto_map_of_text_encoder,
    _auto_map_of_tokenizer, _adapter_that_names_another_model, _native_code, _compiled_module,
    _index_is_a_list,
]  # fmt: skip


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "attacked"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole micro model, its weights as links, for an attack to change."""
    source, target = model_path("micro-2b"), tmp_path / "model"
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            copy.symlink_to(path)
        elif path.is_file():
            shutil.copyfile(path, copy)
    return target


def _code(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()\n"


def test_a_folder_without_an_attack_opens(folder: Path) -> None:
    (folder / "convert.py").write_text("raise SystemExit")  # nothing reads it
    assert load_pipeline(Source(str(folder)), FLOAT32).vae is not None


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_folder(folder: Path, marker: Path, attack: Attack) -> None:
    attack(folder, _code(marker))
    with pytest.raises(CheckpointError) as caught:
        load_pipeline(Source(str(folder)), FLOAT32)
    assert str(folder) in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hub_snapshot(
    tmp_path: Path, folder: Path, marker: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is in the cache; an index that names code is refused before the download of the
    rest begins."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import constants

    attack(folder, _code(marker))
    commit = "0" * 40
    repo = tmp_path / "hub" / "models--who--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(folder)
    for name, value in {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(
        DiffusionPipeline, "download", lambda *_, **__: str(repo / "snapshots" / commit)
    )
    with pytest.raises(CheckpointError):
        load_pipeline(Source("who/model"), FLOAT32)
    assert not marker.exists()


def test_diffusers_never_sees_the_index_of_a_snapshot_that_names_code(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from diffusers import DiffusionPipeline

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Diffusers was asked")

    _importable_library(folder, "")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *_, **__: str(folder / "model_index.json")
    )
    monkeypatch.setattr(DiffusionPipeline, "download", refuse)
    with pytest.raises(CheckpointError, match="antigravity"):
        load_pipeline(Source("who/model"), FLOAT32)


@pytest.mark.parametrize("attack", [_module_named_like_the_library, _auto_map_of_transformer])
@pytest.mark.parametrize("inside", ["", "transformer"])
def test_a_transformer_in_place_of_the_models_own(
    folder: Path, marker: Path, attack: Attack, inside: str
) -> None:
    attack(folder, _code(marker))
    with pytest.raises(CheckpointError):
        load_pipeline(Source("micro-2b", transformer=str(folder / inside)), FLOAT32)
    assert not marker.exists()


@pytest.mark.parametrize("attack", [_auto_map_of_text_encoder, _adapter_that_names_another_model])
def test_a_text_encoder_of_sat(folder: Path, marker: Path, attack: Attack) -> None:
    attack(folder, _code(marker))
    with pytest.raises(CheckpointError):
        TextConditioner(folder / "text_encoder", folder / "tokenizer", 24, torch.float32)


def test_a_tokenizer_of_sat(folder: Path, marker: Path) -> None:
    _auto_map_of_tokenizer(folder, _code(marker))
    with pytest.raises(CheckpointError, match="auto_map"):
        TextConditioner(folder / "text_encoder", folder / "tokenizer", 24, torch.float32)


@pytest.mark.parametrize("key", ["loss_fn_config", "first_stage_config"])
@pytest.mark.parametrize("target", ["subprocess.call", "torch.load", "torch.nn.Identity.x"])
def test_a_target_in_the_yaml_that_a_checkouts_code_imports(
    tmp_path: Path, key: str, target: str
) -> None:
    from backends.sat.tree.settings import refuse_foreign_targets

    nested = {"model": {key: {"params": [{"target": target, "params": {"args": ["true"]}}]}}}
    with pytest.raises(CheckpointError, match=re.escape(target)):
        refuse_foreign_targets(tmp_path / "model.yaml", nested)
    fine = {"target": "sgm.modules.autoencoding.losses.X", "y": {"target": "torch.nn.Identity"}}
    refuse_foreign_targets(tmp_path / "model.yaml", {"model": {key: fine}})


# --- pickled weights under a torch whose weights_only has a hole


def test_every_reader_of_pickles_refuses_an_old_torch(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = tmp_path / "tensors.bin"
    torch.save({"module": {"x": torch.ones(1)}}, pickled)
    assert read_tensors(pickled, "module")["x"] == 1
    (folder / "text_encoder" / "pytorch_model.bin").symlink_to(pickled)
    readers = [
        lambda: read_torch_file(pickled),
        lambda: read_tensors(pickled, "module"),
        lambda: load_pipeline(Source(str(folder), safetensors=False), FLOAT32),
        lambda: TextConditioner(folder / "text_encoder", folder / "tokenizer", 24, torch.float32),
    ]
    for version in ("2.5.1+cu124", "2.4.0", "1.13.1"):
        monkeypatch.setattr(torch, "__version__", version)
        for read in readers:
            with pytest.raises(MissingPrerequisite, match="CVE-2025-32434"):
                read()
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    assert read_torch_file(pickled)["module"]["x"] == 1


def test_no_function_of_a_worker_reads_a_pickle_without_asking() -> None:
    """`micro` trains the embedded models from files of its own, and no worker imports that part."""
    root = Path(backends.__file__).parent
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        if path.is_relative_to(root / "micro"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "torch.load(" in (body := ast.unparse(node)):
                found.append(f"{path.name}:{node.name}")
                assert "weights_only=True" in body, found[-1]
                assert body.index("refuse_old_torch(") < body.index("torch.load("), found[-1]
    assert found


def test_the_package_asks_for_a_torch_without_the_hole() -> None:
    text = (Path(backends.__file__).parent.parent / "pyproject.toml").read_text()
    floor = re.search(r'"torch>=(\d+)\.(\d+)', text)
    assert floor and (int(floor[1]), int(floor[2])) >= (2, 6)


# --- configurations

CODE_IN_SETTINGS = [
    "+hydra.callbacks={mine:{_target_:os.system}}",
    "+hydra.callbacks={mine:{x:1}}",
    "hydra.launcher._target_=subprocess.call",
    "hydra.sweeper._target_=os.system",
    "+hydra.sweeper.sampler={_target_:os.system}",
    "hydra/job_logging=default",
    "+hydra.job_logging.handlers={h:{class:os.system}}",
    "+hydra.hydra_logging.formatters={f:{class:os.system}}",
    "+cases.micro_2b_quick.x={_target_:os.system}",
    "+candidates.sat.options={_target_:os.system}",
    "+candidates.sat.list=[{_target_:os.system}]",
    "+metrics.psnr._target_=os.system",
    "+judge.x={y:{_target_:os.system}}",
]


@pytest.mark.parametrize("setting", CODE_IN_SETTINGS)
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_settings_that_name_code(
    setting: str, sweep: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["run", *sweep, setting]) == 2
    said = capsys.readouterr().err
    assert "docs/trust.md" in said or "loggers are made from names" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "text", "choice"),
    [
        ("hydra/launcher/mine.yaml", "_target_: os.system\ncommand: touch attacked\n",
         "hydra/launcher=mine"),
        ("hydra/sweeper/mine.yaml", "_target_: os.system\ncommand: touch attacked\n",
         "hydra/sweeper=mine"),
        ("experiment/mine.yaml",
         "# @package _global_\nhydra:\n  callbacks:\n    x: {_target_: os.system, command: touch x}\n",
         "experiment=mine"),
        ("hydra/callbacks/mine.yaml", "x: {_target_: os.system, command: touch attacked}\n",
         "hydra/callbacks=mine"),
        ("backend/mine.yaml", "backend: diffusers\ndtype: {_target_: os.system}\n",
         "+backend@candidates.mine=mine"),
        ("metrics/mine.yaml", "# @package metrics\npsnr:\n  tile_px: {_target_: os.system}\n",
         "metrics=[mine]"),
    ],
)  # fmt: skip
def test_a_configuration_folder_that_names_code(
    file: str, text: str, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "conf" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert main(["run", "-m", "--config-dir", str(tmp_path / "conf"), choice]) == 2
    assert "docs/trust.md" in capsys.readouterr().err
    assert list(here.iterdir()) == []
