"""How many blocks of a component work in one of its calls.

A cache hands out what a block gave before in place of calling it, or lets it be called and do nothing.
So a block counts as having worked when a module inside it was called.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from backends.base import Pipeline


@dataclass(frozen=True)
class Blocks:
    """The blocks of one call: how many there are, and the names of those that worked so far."""

    total: int
    worked: set[str] = field(default_factory=set[str])


class Counter:
    """Counts over calls; `begin` starts the next one."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._now = Blocks(total)

    def begin(self) -> Blocks:
        """What the call that begins now will have counted at its end."""
        self._now = Blocks(self._total)
        return self._now

    def note(self, block: str) -> None:
        """`block` works in the call that is being made."""
        self._now.worked.add(block)


@contextmanager
def counting(pipeline: Pipeline, root: str) -> Generator[Counter | None]:
    """Count the blocks of component `root` that work, within the block; None where it has none.

    Compiled blocks are not counted either: whoever looks inside has them compiled anew.
    """
    modules = pipeline.modules()
    blocks = _blocks(modules.keys(), root)
    inside = {n: _block_of(n, blocks) for n in modules}
    if not blocks or any(_compiled(modules[name]) for name in (root, *blocks)):
        yield None
        return
    counter = Counter(len(blocks))
    with ExitStack() as stack:
        for name, block in inside.items():
            if block is not None:
                stack.callback(_noting(modules[name], counter, block).remove)
        yield counter


def _noting(module: nn.Module, counter: Counter, block: str) -> Any:
    def hook(_module: nn.Module, _arguments: Any) -> None:
        counter.note(block)

    return module.register_forward_pre_hook(hook)


def _blocks(names: Any, root: str) -> set[str]:
    """The outermost numbered modules in `root` that have modules of their own."""
    numbered = {
        f"{root}.{stem}.{number}"
        for name in names
        if name.startswith(f"{root}.")
        for stem, number in [_numbered(name.removeprefix(f"{root}."))]
        if number
    }
    return {n for n in numbered if n in names}


def _numbered(name: str) -> tuple[str, str]:
    """(`transformer_blocks`, `3`) of `transformer_blocks.3.attn1`; the number is empty where there is
    nothing below one."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), None)
    return (name, "") if at is None else (".".join(parts[:at]), parts[at])


def _block_of(name: str, blocks: set[str]) -> str | None:
    parts = name.split(".")
    around = (".".join(parts[:i]) for i in range(1, len(parts)))
    return next((block for block in around if block in blocks), None)


def _compiled(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return (
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(forward, "_torchdynamo_orig_callable")
    )
