"""Package `sat`, imported quietly, with types, in a process world of one rank.

Importing `sat` imports deepspeed, which writes to stdout, and building any SAT model needs
torch.distributed with SAT's model-parallel groups, for which SAT would open a TCP port. A worker's
stdout carries messages and a worker needs no network, so both are dealt with here, once.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from backends.errors import MissingPrerequisite, Unsupported
from backends.worker.extras import command, missing, needs

Hook = Callable[..., torch.Tensor]


@contextmanager
def quiet() -> Generator[None]:
    """Send stdout to stderr and drop import-time warnings that a user cannot act on."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _import_sat() -> Any:
    os.environ.setdefault("SAT_LOGLEVEL", "WARNING")
    try:
        with quiet():
            sat = import_module("sat.model.base_model")
            import_module("sat.mpu")
            import_module("sat.ops.layernorm")
    except ModuleNotFoundError as error:
        # SAT imports its training code, and with it packages that it does not declare (wandb).
        raise MissingPrerequisite(needs("sat", missing("sat") or [str(error.name)])) from error
    except ImportError as error:
        raise MissingPrerequisite(
            f"package `sat` cannot be imported here ({error}); it is needed by the `sat` backend."
            f" Install what it imports in versions that go together: {command('sat')}"
        ) from error
    logging.getLogger("sat").setLevel(logging.WARNING)
    return sat


_base_model = _import_sat()

if TYPE_CHECKING:

    class BaseMixin(nn.Module):
        """Typed outline of `sat.model.mixins.BaseMixin`; `transformer` is set by `add_mixin`."""

        transformer: Any

        def reinit(self, parent_model: nn.Module | None = None) -> None: ...

    class BaseModel(nn.Module):
        """Typed outline of `sat.model.base_model.BaseModel`."""

        transformer: Any

        def __init__(self, args: Any, transformer: Any = None, **kwargs: Any) -> None: ...

        def add_mixin(self, name: str, new_mixin: BaseMixin, reinit: bool = False) -> None: ...

        def get_mixin(self, name: str) -> BaseMixin: ...

    def non_conflict(func: Hook) -> Hook: ...

else:
    BaseMixin = _base_model.BaseMixin
    BaseModel = _base_model.BaseModel
    non_conflict = _base_model.non_conflict


def layer_norm(size: int, *, eps: float, affine: bool) -> nn.LayerNorm:
    """SAT's own LayerNorm over the last `size` entries.

    It is not quite `nn.LayerNorm`: on the CPU in half precision it computes in float32 and *with
    torch's default eps 1e-5 whatever `eps` says*; with apex installed it is apex's fused kernel
    (`sat/ops/layernorm.py`).
    """
    kind = cast(Any, import_module("sat.ops.layernorm")).LayerNorm
    return cast(nn.LayerNorm, kind(size, eps=eps, elementwise_affine=affine))


def default_attention() -> Hook:
    """SAT's default attention kernel: `scaled_dot_product_attention` for a full mask."""
    return cast(Hook, import_module("sat.transformer_defaults").attention_fn_default)


def lora_layers() -> Any:
    """SAT's module of LoRA layers (`sat/model/finetune/lora2.py`)."""
    logger = logging.getLogger("sat")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every package for quantised layers
    try:
        with quiet():
            return import_module("sat.model.finetune.lora2")
    finally:
        logger.setLevel(level)


class _SoloGroup(dist.ProcessGroup):
    """A process group of one rank. SAT itself calls no collectives then; CogVideo's VAE broadcasts
    its input all the same."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    # The overload that `torch.distributed.broadcast` calls; torch's outline shows another one, too.
    def broadcast(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, tensors: Any, opts: Any = None
    ) -> Any:
        """Done at once: there is nobody to send to."""
        future: Any = torch.futures.Future()
        future.set_result(tensors)
        bindings = cast(Any, import_module("torch._C._distributed_c10d"))
        return bindings._create_work_from_future(future)


def _solo_group(*_: Any) -> dist.ProcessGroup:
    return _SoloGroup()


class SoloWorld:
    """The one-rank world that SAT models need, without a network port.

    Several may be open; the last `close` undoes exactly what the first set up. An existing world of
    one rank is used as it is. Raises `Unsupported` in a world of more ranks.
    """

    _open: ClassVar[int] = 0
    _made: ClassVar[tuple[bool, bool]] = (False, False)

    def __init__(self) -> None:
        if SoloWorld._open == 0:
            SoloWorld._made = _make_world()
        SoloWorld._open += 1
        self._closed = False

    def close(self) -> None:
        """Leave the world; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        SoloWorld._open -= 1
        if SoloWorld._open > 0:
            return
        made_world, made_groups = SoloWorld._made
        if made_groups:
            _mpu().destroy_model_parallel()
        if made_world:
            dist.destroy_process_group()


def _mpu() -> Any:
    return import_module("sat.mpu")


def _make_world() -> tuple[bool, bool]:
    """Make the process world and SAT's groups where they are missing; say which were."""
    lacks_world = not dist.is_initialized()
    if lacks_world:
        if not hasattr(dist.Backend, "PARITY_SOLO"):
            dist.Backend.register_backend("parity_solo", _solo_group, devices=["cpu", "cuda"])
        store = cast(Any, dist).HashStore()
        dist.init_process_group("parity_solo", store=store, rank=0, world_size=1)
    elif dist.get_world_size() != 1:
        raise Unsupported(
            f"this process is one of {dist.get_world_size()} torch.distributed ranks; the `sat`"
            " backend renders in a world of one. Start one worker per render instead of torchrun"
        )
    lacks_groups = not _mpu().model_parallel_is_initialized()
    if lacks_groups:
        with quiet():
            _mpu().initialize_model_parallel(1)
    return lacks_world, lacks_groups


@contextmanager
def unchanged_process() -> Generator[None]:
    """Undo what building a SAT model does to the process.

    It seeds every random generator with 1234, turns on cudnn's benchmark and deterministic modes and
    turns off TF32 (`sat/arguments.py`, `set_random_seed`). Here these are the harness's to set.
    """
    cudnn, matmul = cast(Any, torch.backends.cudnn), torch.backends.cuda.matmul
    flags = cudnn.benchmark, cudnn.deterministic, cudnn.enabled, matmul.allow_tf32
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        cudnn.benchmark, cudnn.deterministic, cudnn.enabled, matmul.allow_tf32 = flags
