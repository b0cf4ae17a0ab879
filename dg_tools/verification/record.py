"""Is the loaded transformer what its family's record says? Asked of a run, and not of the record itself."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from dg_tools.families import bind
from dg_tools.models.block import Block
from dg_tools.models.check import check_record
from dg_tools.verification.plain import SCALE, Plain, check_scale, relative, unequal
from dg_tools.verification.result import Measured, NotApplicable

WRITTEN = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}  # rounding of what a block adds up
CONDITIONAL = {  # where a record says that the conditional prediction is
    "batched": "the second half of the batch",
    "batched_cond_first": "the first half of the batch",
    "sequential": "the first call of a step",
}
ROWS = 0.1  # of the distance between the two halves: how far the conditional one may be from itself alone


def check_streams(plain: Plain) -> Measured:
    """Each block returns the streams that the record names, and the image stream is what reaches the model's end."""
    dit, first = plain.dit, len(plain.dit.blocks)
    check_record(dit.family, dit.transformer)
    last: list[torch.Tensor] = []
    differences: list[float] = []
    seen: list[int] = []

    def read(index: int, output: Any, tokens: int) -> None:
        if len(seen) >= first:  # the first call is enough
            return
        seen.append(index)
        block = dit.blocks[index]
        if isinstance(output, tuple) != (block.record.returns == "tuple"):
            raise ValueError(f"{block!r} returns a {type(output).__name__}, the record says {block.record.returns!r}")
        image = block.record.get(output, "image", tokens)
        if image is None or image.shape[1:] != (tokens, dit.width):
            shape = None if image is None else tuple(image.shape)
            raise ValueError(f"{block!r}: its image stream is {shape}, not (rows, {tokens}, {dit.width})")
        if (block.record.get(output, "text", tokens) is not None) != block.has_text:
            raise ValueError(f"{block!r} returns {'no' if block.has_text else 'a'} text stream; the record differs")
        last[:] = [image]

    def end(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if differences:
            return
        reached = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
        image, record = last[0].to(reached.dtype), dit.blocks[-1].record
        if reached.ndim > 3:  # tokens by row and column
            reached = reached.flatten(1, -2)
        reached = record.rows_first(reached)
        if reached.shape[1] != image.shape[1]:  # text and image tokens in one sequence
            reached = reached[:, record.tokens_of("image", reached.shape[1], image.shape[1])]
        differences.append(unequal(reached, image))

    with plain.watched(read), ExitStack() as hooks:
        tail = dit.transformer.get_submodule(dit.family.tail)
        hooks.callback(tail.register_forward_pre_hook(end, with_kwargs=True).remove)
        plain.latents()
    if not differences or seen != list(range(first)):
        raise ValueError(f"blocks ran in the order {seen}, and {dit.family.tail} ran {len(differences)} times after it")
    words = (
        f"All {first} blocks return the streams that the family's record names, {dit.width} channels wide, and the "
        f"last block's image stream is what {dit.family.tail} gets."
    )
    return Measured(differences[0], 0.0, words, "values that differ there")


def check_written(plain: Plain) -> Measured:
    """What a block adds to the image stream is gate x attention + gate x MLP, with the gates that the record names."""
    dit, tokens = plain.dit, 0
    parts: dict[str, Any] = {}  # of the block that runs
    worst: list[tuple[float, int]] = []

    def begin(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal tokens
        tokens = plain.image_tokens(bind(module, args, kwargs))

    def before(block: Block, args: tuple, kwargs: dict[str, Any]) -> None:
        parts["before"] = block.record.entering(bind(block.module, args, kwargs), tokens)

    def chunks(block: Block, value: torch.Tensor) -> None:
        parts["chunks"] = block.record.modulated(block.module, value, dit.width)

    def branch(name: str, output: Any) -> None:
        parts[name] = output

    def cross(output: Any) -> None:
        parts["cross"] = output[0] if isinstance(output, tuple) else output

    def after(block: Block, output: Any) -> None:
        if len(worst) >= len(summed):  # the first call is enough
            return
        image = block.record.get(output, "image", tokens)
        assert image is not None
        written = (image - parts["before"]).double()
        total = torch.zeros_like(written)
        for _, path, gate in block.record.branches(block.module):
            total += parts["chunks"][gate][:, None].double() * block.record.of_image(parts[path], path, tokens).double()
        if "cross" in parts:
            total += parts["cross"].double()
        worst.append(((total - written).norm().item() / max(written.norm().item(), 1e-30), block.index))
        parts.clear()

    summed = [block for block in dit.blocks if block.record.mlp is not None]
    if not summed:
        raise NotApplicable("an MLP that runs more than once in a block cannot be read")
    with ExitStack() as hooks:
        hooks.callback(dit.transformer.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for block in summed:
            module, paths = block.module, [path for _, path, _ in block.record.branches(block.module)]
            handles = [
                module.register_forward_pre_hook(lambda m, a, k, b=block: before(b, a, k), with_kwargs=True),
                block.record.on_modulation(module, partial(chunks, block)),
                module.register_forward_hook(lambda m, a, o, b=block: after(b, o)),
            ]
            handles += [module.get_submodule(p).register_forward_hook(lambda m, a, o, p=p: branch(p, o)) for p in paths]
            if (other := getattr(module, "attn2", None)) is not None and "attn2" not in paths:  # it has no gate
                handles.append(other.register_forward_hook(lambda m, a, o: cross(o)))
            for handle in handles:
                hooks.callback(handle.remove)
        plain.latents()
    difference, index = max(worst)
    words = (
        f"What each of {len(summed)} blocks adds to the image stream is the sum of its branches (attention, MLP), each "
        "times the AdaLN gate that the record names."
    )
    return Measured(difference, WRITTEN.get(dit.dtype, 0.05), words, f"largest relative difference (block {index})")


def check_timestep(plain: Plain) -> Measured:
    """The transformer's timestep is the noise level that the record states."""
    dit = plain.dit
    told = [inputs["timestep"].detach().flatten()[0].double().item() for inputs, _ in plain.calls(1.0)]
    levels = dit.pipeline.scheduler.timesteps.double().tolist()[: len(told)]
    expected = [dit.family.timestep_offset + level * dit.family.timestep_scale / 1000.0 for level in levels]
    difference = max(abs(a - b) for a, b in zip(told, expected, strict=True)) / max(expected)  # the first or last is 0
    words = (
        "The timestep that the transformer gets is the scheduler's, converted as the record says: in the first step "
        f"{told[0]:g} for the scheduler's {levels[0]:g}."
    )
    return Measured(
        difference, 4 * torch.finfo(dit.dtype).eps, words, f"largest relative difference of {len(told)} steps"
    )


def check_rows(plain: Plain) -> Measured:
    """The half of CFG that the record calls conditional is the prediction without CFG."""
    family = plain.dit.family
    check_scale(plain, SCALE)
    alone, both = plain.calls(1.0), plain.calls(SCALE)
    target = alone[0][1]
    if family.rows == "sequential":
        if len(both) == len(alone):
            raise NotApplicable("this checkpoint is distilled: its pipeline makes one pass per step at any scale")
        cond, uncond = both[0][1], both[1][1]
    else:
        first, second = both[0][1].chunk(2)
        uncond, cond = (first, second) if family.rows == "batched" else (second, first)
    apart = relative(uncond, target)
    if apart == 0:
        raise NotApplicable("the prompt changes nothing in this model's first prediction")
    words = f"With CFG, {CONDITIONAL[family.rows]} has the prompt: it predicts what the call without CFG predicts."
    unit = "its distance to that prediction, over the unconditional one's"
    return Measured(relative(cond, target) / apart, ROWS, words, unit)
