"""The optimiser of the micro VAE: Muon for matrices and convolutions, AdamW for everything else.

Two CPU cores allow a few thousand steps, and Muon (K. Jordan, 2024) gets more out of each step than
AdamW: it replaces the momentum of a matrix by the nearest orthogonal matrix, so that every direction of
the weight learns at one speed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon:
    """Muon with an AdamW companion, under one learning rate.

    Args:
        parameters: what to train. Tensors of two or more dimensions, at least 16 x 16, go to
            Muon (convolutions as `(out, in * kernel)`), the others (norms, biases, narrow projections)
            to AdamW.
        betas: AdamW's moments; Muon uses a momentum of 0.95.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], betas: tuple[float, float] = (0.9, 0.98)
    ) -> None:
        wanted = [p for p in parameters if p.requires_grad]
        self.matrices = [p for p in wanted if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16]
        chosen = {id(p) for p in self.matrices}
        self.adamw = torch.optim.AdamW(
            [p for p in wanted if id(p) not in chosen], lr=0.0, betas=betas, weight_decay=0.0
        )
        self.momenta = [torch.zeros_like(p) for p in self.matrices]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply one update at this learning rate and clear the gradients.

        Units are AdamW's: the RMS change of a weight is about `0.2 * lr`.
        """
        for parameter, momentum in zip(self.matrices, self.momenta, strict=True):
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            momentum.lerp_(gradient, 0.05)
            update = orthogonalise(gradient.lerp(momentum, 0.95).flatten(1))
            scale = 0.2 * math.sqrt(max(update.shape))
            parameter.add_(update.view_as(parameter), alpha=-lr * scale)
            parameter.grad = None
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        self.adamw.zero_grad()


def orthogonalise(matrix: Tensor) -> Tensor:
    """The orthogonal factor of a matrix, approximately.

    Five quintic Newton-Schulz steps: singular values end in about 0.7 to 1.2, all that Muon needs.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def cosine(step: int, steps: int, peak: float, warmup: int = 40, floor: float = 0.02) -> float:
    """Learning rate at `step` of `steps`: linear warm-up to `peak`, then a cosine to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
