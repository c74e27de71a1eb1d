"""Blocks that work in a call are counted, and compiled ones are left alone."""

import torch
from torch import Tensor, nn

from backends.diffusers.acceleration import _compile  # pyright: ignore[reportPrivateUsage]
from backends.stages.blocks_at_work import counting


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.skip = nn.LayerNorm(2), False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.skip else self.norm(x)


class _Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(_Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.transformer_blocks:
            x = block(x)
        return x


class _Pipeline:
    def __init__(self) -> None:
        self.denoiser = _Denoiser()

    def modules(self) -> dict[str, nn.Module]:
        named = self.denoiser.named_modules()
        return {f"transformer.{name}".rstrip("."): module for name, module in named}


def _block(pipeline: _Pipeline, index: int) -> _Block:
    found = pipeline.denoiser.transformer_blocks[index]
    assert isinstance(found, _Block)
    return found


def test_a_block_that_is_called_and_does_nothing_has_not_worked() -> None:
    pipeline = _Pipeline()
    with counting(pipeline, "transformer") as counter:  # type: ignore[arg-type]  # pyright: ignore
        assert counter is not None
        first = counter.begin()
        pipeline.denoiser(torch.zeros(1, 2))
        _block(pipeline, 1).skip = True
        second = counter.begin()
        pipeline.denoiser(torch.zeros(1, 2))
    assert (len(first.worked), len(second.worked), second.total) == (3, 2, 3)
    assert second.worked == {f"transformer.transformer_blocks.{i}" for i in (0, 2)}


def test_compiled_blocks_are_not_looked_into() -> None:
    pipeline = _Pipeline()
    _compile(_block(pipeline, 0))
    with counting(pipeline, "transformer") as counter:  # type: ignore[arg-type]  # pyright: ignore
        assert counter is None
