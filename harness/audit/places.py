"""Canonical tensor names taken apart, and many of them put into few words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.records import Component

_NUMBERED = re.compile(
    r"^(?P<head>(?:[\w.]*?)(?:transformer_blocks|down_blocks|up_blocks|mid_block\.resnets|block))"
    r"\.(?P<number>\d+)(?=\.)"
)
_SHOWN = 6


@dataclass(frozen=True)
class Place:
    """One tensor's place. `block` is the numbered module that it lies in (`transformer_blocks.2`),
    without the component, or the part of the VAE; `generic` is the name with that number left out.
    """

    component: str
    block: str | None
    generic: str


def place(name: str) -> Place:
    """Take a canonical name apart."""
    component, _, rest = name.partition(".")
    match = _NUMBERED.match(rest)
    if match is None:
        return Place(component, None, name)
    block = f"{match['head']}.{match['number']}"
    return Place(component, block, f"{component}.{match['head']}.*{rest[match.end() :]}")


def module(name: str) -> str:
    """The module that holds a tensor: the name without `.weight` or `.bias`."""
    return re.sub(r"\.(weight|bias)$", "", name)


def reading_order(name: str) -> str:
    """A sort key: alphabetical, but query before key before value, as everyone says it."""
    return name.replace("to_q", "to_0").replace("norm_q", "norm_0")


def record_component(name: str) -> Component | None:
    """The part of a pipeline, as findings name it, that a canonical name belongs to."""
    if name.startswith("vae.encoder"):
        return "image_encoder"
    parts: dict[str, Component] = {
        "transformer": "transformer", "vae": "decoder", "text_encoder": "text",
        "scheduler": "schedule", "pipeline": "loop",
    }  # fmt: skip
    return parts.get(name.partition(".")[0])


def single_block(names: Iterable[str]) -> str | None:
    """The numbered module that all of these tensors lie in; None if there is no such one."""
    blocks = {place(name).block for name in names}
    return blocks.pop() if len(blocks) == 1 else None


def listed(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = len(every) - shown
    return ", ".join(every[:shown]) + (f" and {more} more" if more > 0 else "")


def blocks_in_words(blocks: Sequence[str], of: int) -> str:
    """Which numbered modules: all of them, one by name, or a range where it is one."""
    unique = sorted(set(blocks), key=lambda b: (b.rpartition(".")[0], int(b.rpartition(".")[2])))
    if len(unique) == 1:
        return f"in {unique[0]} alone" if of > 1 else f"in {unique[0]}"
    if len(unique) == of:
        return f"in all {of} blocks"
    return f"in {len(unique)} of {of} blocks ({listed(unique)})"
