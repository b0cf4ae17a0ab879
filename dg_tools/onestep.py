"""One denoising step on its own: the velocity at any z_t and noise level, on any family.

The other inputs of the transformer (text, positions, guidance) are read from the pipeline's own first call of it. The
pipeline is stopped there, so no family needs encoder code of its own here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch

from dg_tools.families import bind
from dg_tools.forward.active import active
from dg_tools.forward.call import Call
from dg_tools.forward.refusals import check_cache
from dg_tools.forward.restart import Restart, why_not
from dg_tools.interventions import Disrupt, Donor, Edit, attached
from dg_tools.interventions.patching import reading
from dg_tools.metrics import gain
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import packed, spatial


class _Enough(Exception):
    """Stops the pipeline at its first forward."""


def first_call(dit: DiT, prompts: list[str], **kwargs: Any) -> dict[str, Any]:
    """The inputs of the transformer's first forward in a pipeline call, which is stopped there, by name.

    The pipeline's scheduler is left set for that call. `kwargs` as in `DiT.arguments`.
    """
    inputs: dict[str, Any] = {}

    def stop(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs.update(bind(module, args, kwargs))
        raise _Enough

    arguments = dit.arguments(prompts, **kwargs)
    with dit.running():
        handle = dit.transformer.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            dit.sample(**arguments, output_type="latent")
        except _Enough:
            pass
        finally:
            handle.remove()
    return inputs


def check_velocity(dit: DiT) -> None:
    """Raise ValueError for a family that does not predict a velocity."""
    if dit.family.prediction != "velocity":
        raise ValueError(
            f"family {dit.family.name!r} predicts {dit.family.prediction}: one-step experiments are for velocities, at "
            "z_t = (1 - sigma) x + sigma noise; generate, capture, edits and guidance work"
        )


def conditions(
    dit: DiT, prompts: list[str], height: int | None = None, width: int | None = None, **kwargs: Any
) -> dict[str, Any]:
    """The transformer's inputs for these prompts without CFG, except `hidden_states` and `timestep`.

    `kwargs` go to the pipeline's call.

    Raises:
        ValueError: a family that predicts noise, since it was not trained on z_t = (1 - sigma) x + sigma noise; or a
            call with reference pictures, whose latents would stand beside z_t.
    """
    check_velocity(dit)
    inputs = first_call(dit, prompts, **{"seed": 0, **kwargs, "steps": 1, "height": height, "width": width})
    tokens = dit.family.image_tokens(dit.transformer, inputs["hidden_states"])
    rows, columns = dit.family.picture_grid(dit.transformer, inputs) or (1, tokens)
    if rows * columns != tokens:
        raise ValueError(
            f"this call has {tokens - rows * columns} tokens of reference pictures: one-step experiments are for "
            "pictures from text alone; generate, capture, edits and guidance work"
        )
    return without_state(inputs)


def without_state(inputs: dict[str, Any]) -> dict[str, Any]:
    """A forward's inputs without what changes from step to step."""
    return {k: v for k, v in inputs.items() if k not in ("hidden_states", "timestep", "return_dict")}


@torch.no_grad()
def velocity(
    dit: DiT,
    noised: torch.Tensor,
    sigma: float,
    inputs: dict[str, Any],
    edits: Sequence[Edit] = (),
    *,
    step: int | None = None,
) -> torch.Tensor:
    """The velocity noise - x that the model predicts, with edits on.

    Args:
        dit: the model; its lock is held.
        noised: z_t = (1 - sigma) x + sigma noise, (N, C, h, w).
        sigma: noise level, 0 to 1.
        inputs: from `conditions`, for as many prompts as there are rows.
        edits: on in this forward, and taken off again.
        step: index of the denoising step, for edits that act in some steps only.

    Returns:
        (N, C, h, w).

    Raises:
        ValueError: a step cache is on.
        RuntimeError: an edit that touched nothing.
    """
    check_cache(dit.transformer)
    level = torch.full((len(noised),), sigma * dit.family.timestep_scale, device=noised.device)
    arguments = {**inputs, "hidden_states": packed(dit, noised), "timestep": level, "return_dict": False}
    call = Call.at(sigma, step=step)  # for edits that are on around this, too
    with dit.running(), active(dit.transformer).repeating(call), attached(dit.transformer, dit.family, edits, call):
        predicted = dit.transformer(**arguments)[0]
    return spatial(dit, predicted, *dit.picture_size(noised))


class EditableStep:
    """The velocity at one z_t, clean and under edits; an edit reruns only the blocks after its own.

    Args:
        dit, noised, sigma, inputs: as in `velocity`.
        uses: by block, how many edits start there. An edit at any other block takes a whole forward. So do all edits
            where the family cannot start in the middle.

    Attributes:
        z: z_t, (N, C, h, w).
        clean: the clean velocity, same shape.
    """

    def __init__(
        self, dit: DiT, noised: torch.Tensor, sigma: float, inputs: dict[str, Any], uses: Mapping[int, int]
    ) -> None:
        self.dit, self.z, self.sigma, self.inputs = dit, noised, sigma, inputs
        self.call = Call.at(sigma, image_tokens=dit.family.image_tokens(dit.transformer, packed(dit, noised)))
        starts = uses if why_not(dit.family, inputs) is None else {}
        self._restarts = {b: Restart(dit.transformer, dit.family, b, count) for b, count in starts.items()}
        with ExitStack() as stack:
            for restart in self._restarts.values():
                stack.enter_context(restart.keeping())
            self.clean = velocity(dit, noised, sigma, inputs)

    def velocity(self, edit: Disrupt) -> torch.Tensor:
        """The velocity under an edit, (N, C, h, w)."""
        if edit.why_whole is not None or edit.block not in self._restarts:
            return velocity(self.dit, self.z, self.sigma, self.inputs, [edit])
        record = self.dit.block(edit.block).record
        with self._restarts[edit.block].starting(lambda output: edit.must_edit(output, record, self.call)):
            return velocity(self.dit, self.z, self.sigma, self.inputs)


def donor(
    dit: DiT,
    noised: torch.Tensor,
    sigma: float,
    prompts: list[str],
    block: int,
    *,
    stream: Literal["image", "text"] = "image",
    **kwargs: Any,
) -> Donor:
    """Hidden states of a block for other prompts at the same z_t, for `Disrupt.transport(dit, channels, block, donor)`.

    Args:
        dit: the model.
        noised, sigma: as in `velocity`.
        prompts: the donating prompts, as many as there are pictures.
        block, stream: whose output.
        **kwargs: to the pipeline's call.
    """
    dit.block(block)
    inputs = conditions(dit, prompts, *dit.picture_size(noised), **kwargs)
    with dit.running(), reading(dit.transformer, dit.family, block, Call.at(sigma), stream) as values:
        velocity(dit, noised, sigma, inputs)
    return values.donor("; ".join(dict.fromkeys(prompts)))


def gain_of(
    dit: DiT,
    edit: Disrupt,
    latents: torch.Tensor,
    prompts: list[str],
    *,
    sigmas: Sequence[float] = (0.3, 0.5, 0.7),
    seed: int = 0,
    **kwargs: Any,
) -> float:
    """The gain g = <c, d> / <c, c> of an edited prediction d; mean over pictures and noise levels.

    It says how much of the clean prediction c is left in d.

    Args:
        dit: the model.
        edit: the edit under which d is predicted.
        latents: clean pictures, (N, C, h, w), as `Generation.latents`; they are noised.
        prompts: one for each picture.
        sigmas: noise levels, 0 to 1.
        seed: of the noise.
        **kwargs: to the pipeline's call.

    Raises:
        ValueError: a family that does not predict a velocity.
    """
    inputs = conditions(dit, prompts, *dit.picture_size(latents), **kwargs)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    shares = []
    for sigma in sigmas:
        noised = (1 - sigma) * latents + sigma * noise
        own, other = (velocity(dit, noised, sigma, inputs, edits) for edits in ([], [edit]))
        shares.append(gain(other, own))
    return torch.stack(shares).mean().item()
