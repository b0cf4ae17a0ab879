"""Is everything as it was: hooks, forwards, schedulers, blocks and weights?"""

from __future__ import annotations

from typing import Any

import torch

from dg_tools.forward.active import active
from dg_tools.guidance.classic import detail_guidance
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.kinds import some
from dg_tools.models.dit import DiT
from dg_tools.models.provenance import weights_hash
from dg_tools.verification.plain import WEIGHT, Plain, unequal
from dg_tools.verification.result import Measured

TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
REPLACED = ("forward", "cache_context", "__getstate__", "step", "set_timesteps", "scale_model_input")


class Stopped(Exception):
    """Stops a guided run in the middle, to see what it leaves behind."""


def state(dit: DiT) -> dict[str, Any]:
    """Everything that a run could change on the pipeline, the scheduler, the transformer and each of its parts."""
    found: dict[str, Any] = {"weights": weights_hash(dit)}
    owners = {"pipeline": dit.pipeline, "scheduler": dit.pipeline.scheduler}
    owners |= {f"transformer.{name}".rstrip("."): module for name, module in dit.transformer.named_modules()}
    for name, owner in owners.items():
        own = vars(owner)
        found |= {f"{name}.{a}": id(own[a]) for a in REPLACED if a in own}
        found |= {f"{name}.{table}": [id(h) for h in own[table].values()] for table in TABLES if own.get(table)}
        found[name] = id(owner)
    now = active(dit.transformer)
    found |= {f"active.{name}": getattr(now, name) for name in ("guidance", "trace", "rerun", "stated")}
    return found


def check_restored(plain: Plain, disrupt: Disrupt, before: dict[str, Any], clean: torch.Tensor) -> Measured:
    """After all checks, and after a guided run that an error stopped, nothing is left and the plain call is the same.

    Args:
        plain: the call.
        disrupt: of the run that is stopped.
        before: the `state` before the first check.
        clean: latents of the plain call then.

    Raises:
        ValueError: something is there that was not, or is gone; names it.
    """
    dit = plain.dit

    def stop(module: torch.nn.Module, args: tuple, output: Any) -> None:
        raise Stopped

    handle = dit.blocks[-1].module.register_forward_hook(stop)
    try:
        with detail_guidance(dit.pipeline, DetailGuidance(detail_guidance_scale=WEIGHT, disrupt=disrupt)):
            plain.latents()
        raise ValueError(f"{dit.blocks[-1]!r} did not run, so that an error in it could not stop the run")
    except Stopped:
        pass
    finally:
        handle.remove()
    now = state(dit)
    if changed := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
        raise ValueError(f"left behind or lost: {some(changed, 3)}")
    differing = unequal(plain.latents(), clean)
    words = (
        f"After all checks, and after a guided run that an error stopped, {len(now)} hooks, forwards and parts of the "
        "pipeline are as before, and the plain call gives the same latents."
    )
    return Measured(differing, 0.0, words, "latent values that differ")
