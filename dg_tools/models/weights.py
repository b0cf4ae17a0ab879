"""The active weights of a transformer as named plain tensors: plain, quantised, offloaded or with LoRA."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dg_tools.forward.refusals import REFUSALS, hooks_of


def acting_weights(transformer: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor | str]]:
    """Every active weight, in order, as plain tensors; and, as strings, what else decides the result.

    - Plain weights are those of `state_dict()`.
    - A quantised weight (torchao, GGUF, quanto, bitsandbytes) gives its stored tensors and its kind. Nothing is
      dequantised.
    - An offloaded weight is read from where it is kept: accelerate's maps, or the files of group offloading.
    - LoRA (peft): the active adapters, with their names and scales. Adapters that are inactive, disabled, fused or of
      scale 0 change no picture and are left out: a model with a disabled adapter has the same weights as the model
      without it.

    Args:
        transformer: a diffusers transformer, however it was loaded.
    """
    modules = dict(transformer.named_modules())  # asked by vars: a module answers a missing attribute slowly
    tuned = {name: layer for name, layer in modules.items() if "merged_adapters" in vars(layer)}
    files = files_of(modules)
    for name, layer in tuned.items():
        if acting := acting_adapters(layer):
            yield f"{name}.adapters", f"{acting!r}{' until unfused' if layer.merged else ''}"
    for name, module in modules.items():
        if "weight_qtype" in vars(module):  # quanto: before it is frozen, the weights do not say it
            yield f"{name}.qtype", f"{module.weight_qtype} {module.activation_qtype}"
    for name, value in transformer.state_dict(keep_vars=True).items():
        own = name_without_adapters(name, tuned) if tuned else name
        if own is None:
            continue
        if id(value) in files:
            value = read_tensor(*files[id(value)])
        elif isinstance(value, torch.Tensor) and value.is_meta:
            value = offloaded(modules, name)
        yield from plain(own, value)


def plain(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor | str]]:
    """One entry of a state dict as the plain tensors that it is stored as, and its kind in words."""
    if type(value) is torch.nn.Parameter and not hasattr(value, "quant_type"):  # most of them: the short way
        yield name, value.detach()
    elif not isinstance(value, torch.Tensor):
        yield name, repr(value)
    elif hasattr(value, "__tensor_flatten__"):  # torchao: a tensor that wraps several
        inner, facts = value.__tensor_flatten__()
        yield name, f"{type(value).__name__} {re.sub(r' at 0x[0-9a-f]+', '', repr(facts))}"
        for part in inner:
            yield from plain(f"{name}.{part}", getattr(value, part))
    else:
        with torch._C.DisableTorchFunctionSubclass():  # GGUF's would read the shape of bytes as that of weights
            stored = value.detach().as_subclass(torch.Tensor)
        if hasattr(value, "quant_type"):
            yield name, str(value.quant_type)
        yield name, stored


def check_noise(transformer: torch.nn.Module, *, copied: bool = False) -> None:
    """Raise ValueError if noise cannot be added to the weights in place, or, with `copied`, to a plain copy."""
    floats = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    modules = list(transformer.modules())
    what = None
    if any(p.is_meta for p in transformer.parameters()) or any(hooks_of(transformer)):
        what = "are offloaded layer by layer or cast for each layer"
    elif any(type(p) is not torch.nn.Parameter or p.dtype not in floats for p in transformer.parameters()):
        what = "are quantised"
    elif copied and any(hasattr(m, "merged_adapters") for m in modules):
        what = "have LoRA on them, which a copy would lack"
    if what is not None:
        raise REFUSALS["noise"].error(what=what)


# -- LoRA -------------------------------------------------------------------------------------------------------------


def acting_adapters(layer: Any) -> list[tuple[str, float | None]]:
    """Names and scales of the active adapters of a peft layer, in order."""
    scales = getattr(layer, "scaling", {})
    if layer.disable_adapters:
        return [(name, scales.get(name)) for name in layer.merged_adapters]  # peft takes them out again when it runs
    if layer.merged:
        return []
    own, variants = layer._get_available_adapters(), getattr(layer, "lora_variant", {})  # DoRA acts at scale 0 too
    named = [(name, scales.get(name)) for name in layer.active_adapters if name in own]
    return [(name, scale) for name, scale in named if scale != 0 or name in variants]


def name_without_adapters(name: str, tuned: dict[str, Any]) -> str | None:
    """The name that a weight has without peft's layers around it; None for a weight of an inactive adapter."""
    parts = name.split(".")
    kept = []
    for i, part in enumerate(parts):
        layer = tuned.get(".".join(parts[:i]))
        if layer is not None and part == "base_layer":
            continue
        if layer is not None and part in layer.adapter_layer_names:
            if parts[i + 1] not in [adapter for adapter, _ in acting_adapters(layer)]:
                return None
        kept.append(part)
    return ".".join(kept)


# -- offloaded --------------------------------------------------------------------------------------------------------


def offloaded(modules: dict[str, torch.nn.Module], name: str) -> torch.Tensor:
    """The value of a weight that accelerate keeps outside of its module.

    Raises:
        ValueError: no value is kept anywhere: the model was built without values.
    """
    parts = name.split(".")
    for i in range(len(parts) - 1, -1, -1):  # the module's own hook first, then those of the modules around it
        hook = getattr(modules[".".join(parts[:i])], "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            kept = getattr(one, "weights_map", None)
            if kept is not None and ".".join(parts[i:]) in kept:
                return kept[".".join(parts[i:])]
    raise ValueError(f"weight {name!r} is on the meta device and has no value: load the model's weights first")


def files_of(modules: dict[str, torch.nn.Module]) -> dict[int, tuple[Path, str]]:
    """By the id of a weight: file and key where diffusers' group offloading keeps it on disk."""
    files: dict[int, tuple[Path, str]] = {}
    for module in modules.values():
        registry = vars(module).get("_diffusers_hook")
        for hook in registry.hooks.values() if registry is not None else ():
            group: Any = getattr(hook, "group", None)
            if getattr(group, "_is_offloaded_to_disk", False):
                where = Path(group.safetensors_file_path)
                files |= {id(weight): (where, key) for weight, key in group.tensor_to_key.items()}
    return files


def read_tensor(file: Path, key: str) -> torch.Tensor:
    """One tensor of a safetensors file."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(key)
