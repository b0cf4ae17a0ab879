"""Recorded: one step of the transformer's training on latents that are on the GPU, replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from training.scenes.recipe import Stage
from training.scenes.ring import Ring
from training.scenes.state import State
from training.scenes.tokens import flow_loss, kept, positions


def autocast(device: str) -> Any:
    """bfloat16 on a GPU; its cache of cast weights is off, since a graph is recorded."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False)


class Stepper:
    """One training step of a stage, on a GPU recorded once and then replayed.

    Attributes:
        total: sum of the losses since it was last read, on the device.
        rate: the learning rate, a tensor on the device.
    """

    def __init__(self, state: State, ring: Ring, stage: Stage, mode: str) -> None:
        self.state, self.ring, self.stage, recipe = state, ring, stage, state.recipe
        self.total = torch.zeros((), device=state.device)
        side = stage.size // recipe.vae.factor // recipe.dit.patch
        self.places = positions(side, recipe.tokens, recipe.dit.heads * recipe.dit.head_dim).to(state.device)
        self.rate: torch.Tensor = state.optimizer.param_groups[0]["lr"]
        self.run: Callable[[], Any] = self.once
        if state.device == "cuda" and "graph" in mode:
            self.run = self._recorded()

    def once(self) -> None:
        """Loss, gradient, weights and their average."""
        state = self.state
        with autocast(state.device):
            value = self.loss()
        state.optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(state.parameters, 1.0, foreach=True)
        state.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(state.average, [p.detach() for p in state.parameters], 1 - state.recipe.dit.ema)
            self.total.add_(value.detach())

    def loss(self) -> torch.Tensor:
        """Mean squared error of the predicted velocity noise - x, over the tokens that are kept."""
        recipe, stage, device = self.state.recipe, self.stage, self.state.device
        latents, clip, t5 = self.ring.batch(stage.batch)
        noise = torch.randn_like(latents)
        sigma = torch.sigmoid(stage.sigma_mean + recipe.dit.sigma_std * torch.randn(stage.batch, device=device))
        index = kept(stage.batch, latents.shape[-1] // recipe.dit.patch, stage.keep, stage.cell, None, device)
        text = self.state.text.encode(clip, t5)
        return flow_loss(self.state.transformer, latents, noise, sigma, text, self.places, index)

    def _recorded(self) -> Callable[[], Any]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                self.once()
        torch.cuda.current_stream().wait_stream(side)
        self.state.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.once()
        self.graph = graph
        self.total.zero_()  # the losses before the recording are not steps of the run
        return graph.replay
