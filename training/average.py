"""Weights and their exponential average: what is trained, and what is exported."""

from __future__ import annotations

import torch

from training.recipe import Recipe


class Averaged:
    """What both trainings share.

    Attributes:
        recipe: `dit.ema` is the largest decay.
        parameters: what is trained.
        average: their exponential average, in the same order.
        step: how many were done.
    """

    recipe: Recipe
    parameters: list[torch.nn.Parameter]
    average: list[torch.Tensor]
    step: int

    @torch.no_grad()
    def average_in(self) -> None:
        """One step of the exponential average; short at first, so that a warm start is soon left behind."""
        decay = min(self.recipe.dit.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    def swap(self) -> None:
        """Exchange weights and average (call it twice)."""
        for p, a in zip(self.parameters, self.average, strict=True):
            p.data, a.data = a.data, p.data
