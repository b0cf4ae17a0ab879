"""The picture that the residual stream holds after each block, and whether the output layer reads the massive channels.

The model's own last layers (`norm_out` and `proj_out`) are applied to each block's output, as the logit lens is in
language models, and the resulting velocity v is read as a picture, x0 = z - sigma v. Zeroing the massive channels in
the lens only, with the model's own pass unchanged, shows what the output layer itself reads from them, through the
norm's statistics and the projection's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dg_tools._as_list import as_list
from dg_tools.experiments.block_hooks import on_block_outputs
from dg_tools.experiments.subject import check_channels
from dg_tools.experiments.trajectories import trajectories
from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode
from dg_tools.onestep import velocity


@dataclass
class Lens:
    """The result of `lens`.

    Attributes:
        clean, without: x0 in latents after each block, (blocks, pictures, C, h, w). In `without` the channels are zero
            in the lens; it is None if no channels were given.
        prompts, seed, sigma, sites, channels: what was measured; `sites` are the blocks' names.
    """

    clean: torch.Tensor
    without: torch.Tensor | None
    prompts: list[str]
    seed: int
    sigma: float
    sites: list[str]
    channels: list[int]
    dit: DiT = field(repr=False)

    def __repr__(self) -> str:
        size = f"{counted(len(self.sites), 'block')} x {counted(len(self.prompts), 'picture')}"
        return f"Lens({size} at sigma {self.sigma:.3g})"

    def pictures(self, which: str = "clean") -> torch.Tensor:
        """Decoded, (blocks, pictures, 3, H, W) in [0, 1]; which: `clean` or `without`.

        Raises:
            ValueError: another word, or no channels were named.
        """
        x0 = {"clean": self.clean, "without": self.without}.get(which)
        if x0 is None:
            raise ValueError(f"which={which!r}; allowed: clean, and without where channels were named")
        return torch.stack([decode(self.dit, block, output_type="pt").float().cpu() for block in x0])

    def change(self) -> torch.Tensor:
        """||x0 without - x0 clean|| / ||x0 clean||, (blocks, pictures).

        Raises:
            ValueError: no channels were named.
        """
        if self.without is None:
            raise ValueError("no channels were named: pass channels= to lens")
        return (self.without - self.clean).flatten(2).norm(dim=2) / self.clean.flatten(2).norm(dim=2).clamp_min(1e-12)

    def plot(self, picture: int = 0) -> Any:
        """One picture by block, clean and without the channels."""
        from dg_tools.plots import lens_figure

        rows = {"clean": self.pictures()[:, picture]}
        if self.without is not None:
            label = f"without {', '.join(map(str, self.channels[:4]))}\nin the lens"
            rows[label] = self.pictures("without")[:, picture]
        changes = None if self.without is None else self.change()[:, picture].tolist()
        title = f"x0 as the output layer reads each block, sigma {self.sigma:.2f}: {self.prompts[picture]}"
        return lens_figure({k: v.permute(0, 2, 3, 1).numpy() for k, v in rows.items()}, self.sites, changes, title)


@torch.no_grad()
def lens(
    dit: DiT,
    prompts: str | Sequence[str],
    *,
    channels: Sequence[int] = (),
    seed: int = 0,
    steps: int = 20,
    step: int | None = None,
    **kwargs: Any,
) -> Lens:
    """Read x0 by the model's output layer after each block, at one step of sampling.

    Args:
        dit: any DiT that predicts a velocity and allows a partial forward.
        prompts: one or several.
        channels: set to zero in the lens only; empty: the clean lens alone.
        seed: of the noise.
        steps: of sampling; step: which of them; None: the middle one.
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError, IndexError: no prompts, a step or channels that are not there.
    """
    names = as_list(prompts)
    zeroed = [int(c) for c in channels]
    if not names:
        raise ValueError("an empty list of prompts: pass at least one")
    step = steps // 2 if step is None else step
    if not 0 <= step < steps:
        raise IndexError(f"step {step} is out of range; there are 0 to {steps - 1}")
    if zeroed:
        check_channels(dit, zeroed)
    part = next(trajectories(dit, names, [seed], steps=steps, keep=[step], batch=len(names), progress=False, **kwargs))
    _, sigma, latents = part.steps[0]
    streams: list[torch.Tensor] = []
    with dit.running():
        with on_block_outputs(dit, lambda block, image, text: streams.append(image.clone())):
            velocity(dit, latents, sigma, part.inputs)

        def read(stream: torch.Tensor) -> torch.Tensor:
            return (latents - sigma * through(dit, latents, sigma, part.inputs, stream)).float().cpu()

        clean = torch.stack([read(x) for x in streams])
        without = None
        if zeroed:
            without = torch.stack([read(x.index_fill(2, torch.tensor(zeroed, device=x.device), 0)) for x in streams])
    return Lens(clean, without, names, seed, sigma, dit.sites, zeroed, dit)


def through(
    dit: DiT, latents: torch.Tensor, sigma: float, inputs: dict[str, Any], stream: torch.Tensor
) -> torch.Tensor:
    """The velocity that the layers after the last block make of an image stream (rows, tokens, channels)."""
    tail = dit.transformer.get_submodule(dit.family.tail)

    def take_stream(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return (stream, *args[1:]), kwargs

    handle = tail.register_forward_pre_hook(take_stream, with_kwargs=True)
    try:
        return velocity(dit, latents, sigma, inputs)
    finally:
        handle.remove()
