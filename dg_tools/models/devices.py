"""Where a model computes, in which precision, and where its weights wait."""

from __future__ import annotations

from typing import Any

import torch

OFFLOADS = ("none", "model", "sequential", "group")


def accelerator() -> torch.device | None:
    """The accelerator of this machine that torch can use (cuda, mps, xpu ...), if there is one."""
    return torch.accelerator.current_accelerator(check_available=True)


def placement(
    device: str | torch.device | None, dtype: torch.dtype | str, offload: str, *, embedded: bool
) -> tuple[torch.device | None, torch.dtype]:
    """Device and precision of a model that is about to be loaded; the choice of an accelerator is printed.

    Args:
        device: the given device; None: the accelerator if there is one. An embedded model then stays on the CPU.
        dtype: a torch dtype, its name, or "auto": bfloat16 on an accelerator, float32 on a CPU.
        offload: one of `OFFLOADS`.
        embedded: whether the model comes with the package.

    Raises:
        ValueError: a device that cannot be used here; an unknown dtype or way of offloading; offloading without an
            accelerator.
    """
    where = usable(device)
    check_offload(offload, where)
    if where is None and (offload != "none" or not embedded):
        where = accelerator()
    on_cpu = where is None or where.type == "cpu"
    precision: Any = (torch.float32 if on_cpu else torch.bfloat16) if dtype == "auto" else dtype
    if isinstance(precision, str):
        precision = getattr(torch, precision, None)
    if not isinstance(precision, torch.dtype) or not precision.is_floating_point:
        raise ValueError(f"dtype {dtype!r} is unknown: pass float32, bfloat16, float16, a torch dtype or 'auto'")
    if device is None and not on_cpu:
        words = f"{where} in {str(precision).removeprefix('torch.')}"
        print(f"load: on {words}, the accelerator of this machine; device='cpu' or another dtype= changes that")
    return where, precision


def usable(device: str | torch.device | None) -> torch.device | None:
    """The device, where it can be used; None as it is.

    Raises:
        ValueError: it cannot, with torch's own words.
    """
    if device is None:
        return None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # the second: a build without CUDA
        words = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(f"device {str(device)!r} cannot be used here ({words}): pass another, such as 'cpu'") from None
    return torch.device(device)


def check_offload(offload: str, device: str | torch.device | None) -> None:
    """Raise ValueError for an unknown way of offloading, or for one that has no accelerator to compute on."""
    if offload not in OFFLOADS:
        raise ValueError(f"offload {offload!r} is unknown: pass {', '.join(OFFLOADS)}")
    if offload == "none":
        return
    if (accelerator() is None) if device is None else torch.device(device).type == "cpu":
        found = "there is none here" if device is None else f"the device is {torch.device(device)}"
        raise ValueError(
            f"offload {offload!r} keeps weights in the CPU's memory and computes on an accelerator, and {found}: leave "
            "it out, or name an accelerator as the device"
        )


def place(pipeline: Any, device: str | torch.device | None, offload: str) -> Any:
    """Put a pipeline on a device, or have its parts brought there when they compute.

    `model` brings one part at a time (a text encoder, the transformer), `sequential` one layer at a time through
    accelerate, `group` one layer at a time through diffusers' own hooks.
    """
    if device is None and offload != "none":
        device = accelerator()
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif offload == "group":
        pipeline.enable_group_offload(onload_device=device, offload_type="leaf_level")
    elif device is not None:
        pipeline = pipeline.to(device)
    return pipeline
