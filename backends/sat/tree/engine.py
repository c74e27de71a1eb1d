"""CogVideo's `SATVideoDiffusionEngine`, built and loaded by its own code."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from backends.checkpoints import convert
from backends.checkpoints.sat import checkpoint
from backends.checkpoints.sat.config import ModelConfig
from backends.checkpoints.sat.layout import SatFolder, find_parts
from backends.errors import BackendError, CheckpointError, Unsupported
from backends.sat.stack import SoloWorld, quiet, unchanged_process
from backends.sat.tree.blocks import make_blocks
from backends.sat.tree.checkout import CogVideoCode, find_checkout
from backends.sat.tree.device import on_device
from backends.sat.tree.settings import find_inference, read_settings


class _Conditioner:
    """CogVideo's `FrozenT5Embedder` under the names of `OpenedModel`."""

    def __init__(self, embedder: Any) -> None:
        self.encoder: nn.Module = embedder.transformer
        self._embedder = embedder

    def is_cut(self, text: str) -> bool:
        return len(self._embedder.tokenizer(text)["input_ids"]) > self._embedder.max_length


class TreeEngine:
    """One opened model. Implements `OpenedModel`; `native` is CogVideo's engine, `args` its
    settings."""

    def __init__(
        self, code: CogVideoCode, config: ModelConfig, args: Namespace, native: Any
    ) -> None:
        self.code = code
        self.config = config
        self.args = args
        self.native = native
        self.dtype: torch.dtype = native.dtype
        self.device = torch.device(args.device)
        self.diffusion_model: nn.Module = native.model.diffusion_model
        self.first_stage_model: nn.Module = native.first_stage_model
        self.conditioner = _Conditioner(native.conditioner.embedders[0])
        self._blocks: list[nn.Module] | None = None

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks, in order; see `backends.sat.tree.blocks`."""
        if self._blocks is None:
            self._blocks = make_blocks(self.diffusion_model)
        return self._blocks


def open_engine(
    repo: str,
    model: Path,
    config: Path | None,
    inference: Path | None,
    text_encoder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[TreeEngine, ExitStack]:
    """The model in the folder `model`, opened by the checkout `repo`, and what to close afterwards.

    A Diffusers folder is converted into a temporary SAT folder first. Raises `InvalidRequest` for a
    folder that is no checkout, `MissingPrerequisite`, `CheckpointError`, and `Unsupported` for a
    model that this checkout's generation of the code does not render.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_sat_folder(model, config, text_encoder))
        parts, settings = find_parts(folder, config, text_encoder)
        _check_files(parts)
        code = CogVideoCode(find_checkout(repo))
        stack.callback(code.close)
        world = SoloWorld()
        stack.callback(world.close)
        _check_generation(code, settings)
        mpu: Any = import_module("sat.mpu")
        # `initialize_distributed` of CogVideo does this when it makes the process world itself.
        code.util.set_context_parallel_group(1, mpu.get_model_parallel_group())
        with (
            quiet(), unchanged_process(), checkpoint.without_initialisation(), on_device(device),
            patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}),
        ):  # fmt: skip
            args = read_settings(code, parts, find_inference(parts, inference), dtype, device)
            native = _build(code, args)
        engine = TreeEngine(code, settings, args, native)
        _check_loaded(engine, parts)
        return engine, stack.pop_all()


@contextmanager
def _sat_folder(model: Path, config: Path | None, text_encoder: Path | None) -> Generator[Path]:
    """`model` itself, or a temporary SAT folder with what a Diffusers folder holds."""
    if not model.is_dir():
        raise CheckpointError(
            f"{model} is not a folder; expected a SAT model, a Diffusers pipeline, or the name of a"
            " micro model. Name one in the case's `model` or in the backend's option `checkpoint`"
        )
    if not (model / "model_index.json").is_file():
        yield model
        return
    if config or text_encoder:
        raise CheckpointError(
            f"{model} is a Diffusers pipeline, for which the options `config` and `text_encoder`"
            " mean nothing; remove them or name a SAT folder"
        )

    with TemporaryDirectory(prefix="parity-sat-") as work:
        folder = Path(work) / "model"
        convert(model, folder, "sat")
        yield folder


def _build(code: CogVideoCode, args: Namespace) -> Any:
    """The engine as `sample_video.py` makes it."""
    get_model = import_module("sat.model.base_model").get_model
    load_checkpoint = import_module("sat.training.model_io").load_checkpoint
    try:
        native = get_model(args, code.diffusion_video.SATVideoDiffusionEngine)
        load_checkpoint(native, args)
    except BackendError:
        raise
    except Exception as error:
        # Any error may come out of code and settings that are not ours; all say the same to a user.
        raise CheckpointError(
            f"CogVideo's code in {code.folder} cannot build and load this model:"
            f" {type(error).__name__}: {error}. Check that the YAML, the weights and the checkout"
            " belong together"
        ) from error
    if native.dtype == torch.float32:
        # SAT casts only to half precisions, because T5 used to be read in float32. transformers 5
        # reads it as it is stored, often bfloat16.
        native.float()
    native.eval()
    return native


def _check_generation(code: CogVideoCode, config: ModelConfig) -> None:
    needed = "1.0" if config.transformer.patch_size_t is None else "1.5"
    if code.generation == needed:
        return
    remedy = "tag v1.0" if needed == "1.0" else "the main branch"
    raise Unsupported(
        f"the code in {code.folder} renders CogVideoX {code.generation} and cannot build a"
        f" {needed} model (one has patches of two sizes, the other of three); check out {remedy} for"
        " this model"
    )


def _check_files(parts: SatFolder) -> None:
    """Refuse files that are missing, damaged or hold code before CogVideo's code loads them."""
    checkpoint.read_tensors(checkpoint.model_states_path(parts.transformer), "module")
    checkpoint.read_tensors(parts.vae, "state_dict")


def _check_loaded(engine: TreeEngine, parts: SatFolder) -> None:
    """CogVideo loads what it finds and goes on; weights that it did not find are refused here."""
    path = checkpoint.model_states_path(parts.transformer)
    states = checkpoint.read_tensors(path, "module")
    transformer, vae, _ = checkpoint.split_components(states, path)
    stored = checkpoint.without_loss(checkpoint.read_tensors(parts.vae, "state_dict"))
    for where, module, names, optional in (
        (path, engine.diffusion_model, transformer, checkpoint.OPTIONAL_TRANSFORMER_KEYS),
        (parts.vae, engine.first_stage_model, stored | vae, frozenset[str]()),
    ):
        expected = module.state_dict()
        missing = [n for n in expected if n not in names and n not in optional]
        unexpected = [n for n in names if n not in expected and n not in optional]
        if missing or unexpected:
            raise CheckpointError(
                f"{where} does not hold the weights of the model that {parts.config} describes:"
                f" {len(missing)} missing ({', '.join(missing[:4])}), {len(unexpected)} unexpected"
                f" ({', '.join(unexpected[:4])}). CogVideo's own script would go on with random"
                " weights in their place; use the YAML that belongs to this checkpoint"
            )
