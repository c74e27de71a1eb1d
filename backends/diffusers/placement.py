"""Where Diffusers keeps weights between uses: the whole pipeline on a device, or offloaded.

On CUDA the calls are those that users make. Without an accelerator the same Accelerate and Diffusers
hooks run with the CPU as execution device, which checks their logic but saves no memory; such a
pipeline is labelled `cpu-execution`.

Group offloading follows Diffusers' guide: the text encoder by blocks, the VAE by leaves. Blocks would
not do for the VAE, whose `decode` never calls the `forward` that brings them in; leaves would not do
for T5 on disk, whose tied embedding is written twice, the second time after its memory was released.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from backends.errors import MissingPrerequisite, Unsupported

COMPONENTS = ("text_encoder", "vae", "transformer")
_UNREMOVABLE = "layerwise_casting"
"""A hook that upstream refuses to take off: the weights it rounded do not come back."""


def check_placement(kind: str, device: torch.device, use_stream: bool) -> None:
    """Raise `MissingPrerequisite` or `Unsupported` if `kind` cannot be had here."""
    if kind == "full":
        return
    if find_spec("accelerate") is None:
        raise MissingPrerequisite(
            f"placement={kind} needs the package accelerate; run `pip install accelerate`"
        )
    if use_stream and device.type == "cpu":
        raise Unsupported(
            "use_stream=true needs an accelerator whose backend has streams, and this runs on the"
            " CPU; set use_stream=false"
        )
    if kind.startswith("group_offload"):
        diffusers = import_module("diffusers")
        hooks = find_spec("diffusers.hooks") and import_module("diffusers.hooks")
        apply = getattr(hooks, "apply_group_offloading", None)
        needed = "offload_to_disk_path" if kind.endswith("_disk") else "offload_type"
        if apply is None or needed not in inspect.signature(apply).parameters:
            raise Unsupported(
                f"placement={kind}: diffusers {diffusers.__version__} has no group offloading with"
                f" {needed}; install a later one, or choose model_offload or sequential_offload"
            )


class Placement:
    """A pipeline's weights put in their place; `remove` undoes it and `label` says where it runs."""

    def __init__(self, pipe: Any, kind: str, device: torch.device, use_stream: bool) -> None:
        self._pipe = pipe
        self._kind = kind
        self._device = device
        self._disk: tempfile.TemporaryDirectory[str] | None = None
        if kind == "full":
            pipe.to(device)
            return
        if kind == "model_offload":
            pipe.enable_model_cpu_offload(device=device)
        elif kind == "sequential_offload":
            self._sequential()
        else:
            self._group(kind, use_stream)

    @property
    def label(self) -> str:
        """`cuda`, `cpu`, or `cpu-execution` for offloading without an accelerator."""
        offloaded_to_cpu = self._kind != "full" and self._device.type == "cpu"
        return "cpu-execution" if offloaded_to_cpu else self._device.type

    def _sequential(self) -> None:
        if self._device.type != "cpu":
            self._pipe.enable_sequential_cpu_offload(device=self._device)
            return
        # The pipeline's method names the device `cpu:0`, which Accelerate 1.15 takes for another
        # device than `cpu` and then stores plain tensors where parameters belong. These are the
        # calls that the method makes, with the device's own name.
        cpu_offload = import_module("accelerate").cpu_offload
        for name in COMPONENTS:
            module = getattr(self._pipe, name)
            cpu_offload(module, self._device, offload_buffers=len(module._parameters) > 0)

    def _group(self, kind: str, use_stream: bool) -> None:
        apply_group_offloading = import_module("diffusers.hooks").apply_group_offloading
        if kind.endswith("_disk"):
            # Files that exist are never written again, so each pipeline needs a folder of its own;
            # each component too, because groups are named within their component.
            self._disk = tempfile.TemporaryDirectory(prefix="parity-offload-")
        levels = {
            "text_encoder": "block_level",
            "vae": "leaf_level",
            "transformer": "block_level" if "block" in kind else "leaf_level",
        }
        for name, level in levels.items():
            apply_group_offloading(
                getattr(self._pipe, name),
                onload_device=self._device,
                offload_device=torch.device("cpu"),
                offload_type=level,
                num_blocks_per_group=1 if level == "block_level" else None,
                use_stream=use_stream,
                **(
                    {"offload_to_disk_path": str(Path(self._disk.name) / name)}
                    if self._disk
                    else {}
                ),
            )

    def remove(self) -> None:
        """Take all hooks off and delete the files. The weights need not survive it."""
        self._pipe.remove_all_hooks()
        for name in COMPONENTS:
            for module in getattr(self._pipe, name).modules():
                registry = getattr(module, "_diffusers_hook", None)
                if registry is not None:
                    for hook in list(registry.hooks):
                        if hook != _UNREMOVABLE:
                            registry.remove_hook(hook, recurse=False)
        if self._disk is not None:
            self._disk.cleanup()


def tensors_in_use(component: nn.Module, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers `names` of `component`, with the values that a forward would use.

    Offloaded ones are brought in by their own hooks, a group at a time, and released again, so a
    stale or missing weight shows. `names` are those that the component had before it was offloaded:
    offloading unties tied tensors.
    """
    groups = _groups(component)
    grouped: set[str] = set()
    for group in groups:
        group.onload_()
        if group.stream is not None:
            group.stream.synchronize()
        members = {id(tensor) for tensor in _members(group)}
        for name, tensor in _named_tensors(component):
            if id(tensor) in members and name in names:
                grouped.add(name)
                yield name, tensor
        group.offload_()
    for path, module in component.named_modules():
        with _aligned(module):
            for name, tensor in _named_tensors(module, recurse=False):
                full = f"{path}.{name}" if path else name
                if full in names and full not in grouped:
                    yield full, tensor


def _named_tensors(module: nn.Module, recurse: bool = True) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)]


def _members(group: Any) -> list[Tensor]:
    inside = [tensor for module in group.modules for _, tensor in _named_tensors(module)]
    return [*inside, *group.parameters, *group.buffers]


def _groups(component: nn.Module) -> list[Any]:
    """The offload groups of `component`, each once."""
    found: dict[int, Any] = {}
    for module in component.modules():
        registry = getattr(module, "_diffusers_hook", None)
        hook = None if registry is None else registry.get_hook("group_offloading")
        if hook is not None:
            found[id(hook.group)] = hook.group
    return list(found.values())


@contextmanager
def _aligned(module: nn.Module) -> Generator[None]:
    """Accelerate's own way to see a sequentially offloaded module's weights.

    A module that the model holds under two names (the embedding of T5 before transformers 5) got a
    hook for each, and Accelerate's way knows single ones only.
    """
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    offloading = [
        each for each in getattr(hook, "hooks", [hook]) if getattr(each, "offload", False)
    ]
    align = import_module("accelerate.utils").align_module_device
    with patch.object(module, "_hf_hook", (offloading or [hook])[0]), align(module):
        yield
