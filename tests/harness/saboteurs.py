"""A plugin whose patches make a worker misbehave, for the runner's tests."""

import os
import time

import torch

from backends.worker.patches import patch


def _on_transformer(pipeline, act) -> None:
    pipeline.modules()["transformer"].register_forward_hook(act)


@patch("die")
def die(pipeline) -> None:
    _on_transformer(pipeline, lambda *_: os._exit(7))


@patch("hang")
def hang(pipeline) -> None:
    _on_transformer(pipeline, lambda *_: time.sleep(600))


@patch("raise")
def raise_(pipeline) -> None:
    def act(*_):
        raise RuntimeError("the stack tripped over itself")

    _on_transformer(pipeline, act)


@patch("nan")
def nan(pipeline) -> None:
    _on_transformer(pipeline, lambda _m, _a, out: (torch.full_like(out[0], float("nan")),))


@patch("draw_once_more")
def draw_once_more(pipeline) -> None:
    def act(*_):
        torch.randn(1)

    _on_transformer(pipeline, act)
