"""A prompt with its true picture, mask and axis of style: the one type for prompts and pictures.

A string, a `Reference`, a pair of prompt and picture (a tensor, PIL, a path) becomes an `Example` here, checked once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dg_tools.datasets.pictures import SPAN, as_mask, as_picture, fitted, stack
from dg_tools.datasets.references import Reference, References
from dg_tools.datasets.references import references as embedded_references
from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.numbers import is_several

logger = logging.getLogger("dg_tools")


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt, and its true picture where there is one.

    Attributes:
        prompt: the words.
        picture: (3, H, W) in [-1, 1]; PIL, a path, arrays and tensors become this, as `pictures.as_picture` says.
        mask: (H, W), 0 to 1, how much of each pixel the object covers; a greyscale picture becomes this.
        axis: (3, H, W), from one style to the other: shaded minus flat.
        reference, references: for an embedded model's picture, which one it is and from which set; None for others.
        span: the values of black and white in an array or a tensor: (-1, 1), (0, 1) or (0, 255); None: inferred from
            its values, and refused where two would fit.
    """

    prompt: str
    picture: Any = None
    mask: Any = None
    axis: Any = None
    reference: Reference | None = None
    references: References | None = field(default=None, repr=False)
    span: tuple[float, float] | None = None


Item = str | Reference | Example | tuple[Any, ...]  # (prompt, picture) or (prompt, picture, mask)
Items = Item | Sequence[Item]


def examples(dit: DiT, items: Items, folder: References | None = None, *, truth: bool = False) -> list[Example]:
    """Examples of prompts and pictures in any form, checked: all of them have a picture, or none.

    Pictures of different sizes are cropped around their centre and resized to the model's default size, with their
    masks and axes; the log says so. Pictures of one size keep it.

    Args:
        dit: the model, which sets picture sizes and embedded references.
        items: one or several: a string, a `Reference`, (prompt, picture), (prompt, picture, mask) or an `Example`.
        folder: where the pictures of `Reference`s are; None: the embedded model's.
        truth: whether every one needs a picture.

    Raises:
        TypeError, ValueError: an item of another kind; pictures for some only, or for none where they are needed; a
            size that does not fit the model; masks for some only, or of another size than their picture.
        FileNotFoundError: no file at a path, or a `Reference` where there are no references.
    """
    given = as_items(items)
    if folder is None and any(isinstance(item, Reference) for item in given):
        folder = embedded_references(dit)  # once, for it decodes all of its pictures
    checked = [example_of(item, folder) for item in given]
    without = [x for x in checked if x.picture is None]
    if truth and without:
        raise ValueError(
            f"{without[0].prompt!r} has no picture: this experiment compares with true pictures; pass "
            "`dg.references(dit).sample(n)` or (prompt, picture) pairs, pictures (3, H, W) in [-1, 1]"
        )
    if without and len(without) < len(checked):
        raise ValueError(
            f"{without[0].prompt!r} has no picture, and other prompts have one: pass a picture with each prompt, "
            "or with none"
        )
    if checked and not without:
        checked = of_one_size(dit, checked)
        dit.size(*pictures_of(checked).shape[-2:])
        masks_of(checked)
    return checked


def of_one_size(dit: DiT, several: list[Example]) -> list[Example]:
    """Examples whose pictures differ in size, at the model's default size; others as they are."""
    sizes = {tuple(x.picture.shape[1:]) for x in several}
    if len(sizes) < 2:
        return several
    check_masks(several)
    height, width = dit.size()
    logger.warning(
        "pictures of %d sizes: each is cropped around its centre and resized to %d x %d, the model's default "
        "(an enlarged one lacks fine detail); read_folder reads them at another size",
        len(sizes),
        height,
        width,
    )
    return [at_size(x, height, width) for x in several]


def at_size(example: Example, height: int, width: int) -> Example:
    """An example with its picture, mask and axis cropped around their centre and resized."""
    mask = None if example.mask is None else fitted(example.mask[None], height, width)[0]
    axis = None if example.axis is None else fitted(example.axis, height, width)
    return replace(example, picture=fitted(example.picture, height, width), mask=mask, axis=axis)


def as_items(items: Items) -> list[Item]:
    """One item or several, as a list; a tuple is one item where a picture comes second."""
    if isinstance(items, str | Reference | Example):
        return [items]
    if isinstance(items, tuple) and len(items) > 1 and isinstance(items[0], str):
        return list(items) if isinstance(items[1], str | Reference | Example | tuple) else [items]
    if not is_several(items):
        raise TypeError(
            f"prompts={items!r}; a prompt, or several, is needed: strings, References, (prompt, picture) pairs"
        )
    return list(items)


def prompt_of(item: Item) -> str:
    """The prompt of an item; its picture is not looked at.

    Raises:
        TypeError: an item of another kind.
    """
    if isinstance(item, str):
        return item
    if isinstance(item, Reference | Example):
        return item.prompt
    if isinstance(item, tuple) and len(item) in (2, 3) and isinstance(item[0], str):
        return item[0]
    raise TypeError(
        f"{item!r}: a prompt, a Reference, (prompt, picture), (prompt, picture, mask) or an Example is needed"
    )


def prompts_of(items: Items) -> list[str]:
    """The prompts of one item or several."""
    return [prompt_of(item) for item in as_items(items)]


def say_shared(items: Items) -> None:
    """Log the prompts that several items share: tables by prompt average them, and intervals count them once.

    From one seed they are one sample; only their pictures differ.
    """
    counts = Counter(prompts_of(items))
    shared = [prompt for prompt, count in counts.items() if count > 1]
    if shared:
        logger.warning(
            "prompts given more than once (%d, first %r): their numbers are averaged, and an interval counts each once",
            len(shared),
            shared[0],
        )


def example_of(item: Item, folder: References | None) -> Example:
    """One item as an `Example` whose picture, mask and axis are tensors."""
    prompt = prompt_of(item)
    if isinstance(item, str):
        return Example(prompt)
    if isinstance(item, Reference):
        assert folder is not None  # `examples` saw to it
        return of_reference(item, folder)
    example = item if isinstance(item, Example) else Example(prompt, *item[1:])
    if example.picture is None:
        return example
    picture = as_picture(example.picture, example.span)
    mask = None if example.mask is None else as_mask(example.mask)
    axis = None if example.axis is None else torch.as_tensor(example.axis).float()
    if axis is not None and axis.shape != picture.shape:
        raise ValueError(f"an axis of {tuple(axis.shape)}; the shape of its picture, {tuple(picture.shape)}, is needed")
    return replace(example, picture=picture, mask=mask, axis=axis, span=SPAN)


def with_pictures(prompts: Sequence[str], pictures: torch.Tensor) -> list[Example]:
    """Prompts with pictures (N, 3, H, W) in [-1, 1] that a model drew for them."""
    return [Example(prompt, picture, span=SPAN) for prompt, picture in zip(prompts, pictures, strict=True)]


def of_reference(reference: Reference, source: References) -> Example:
    """A reference with its picture, the object's coverage, and shaded minus flat."""
    picture = source.picture(reference)
    axis = picture - source.picture(reference.other_style)
    axis = -axis if reference.style == "flat" else axis  # always shaded minus flat
    return Example(reference.prompt, picture, source.foreground(reference), axis, reference, source, SPAN)


def pictures_of(several: Sequence[Example]) -> torch.Tensor:
    """(N, 3, H, W) in [-1, 1], where all have one.

    Raises:
        ValueError: pictures of different sizes.
    """
    return stack([x.picture for x in several])


def axes_of(several: Sequence[Example]) -> torch.Tensor:
    """(N, 3, H, W), zero where an example has no axis."""
    return torch.stack([torch.zeros_like(x.picture) if x.axis is None else x.axis for x in several])


def masks_of(several: Sequence[Example]) -> torch.Tensor | None:
    """(N, H, W), 0 to 1; None where there are none.

    Raises:
        ValueError: masks for some pictures only, or of another size than their picture.
    """
    check_masks(several)
    masks = [x.mask for x in several if x.mask is not None]
    return torch.stack(masks) if masks else None


def check_masks(several: Sequence[Example]) -> None:
    """Raise ValueError where only some pictures have a mask, or a mask is of another size than its picture."""
    masked = [x for x in several if x.mask is not None]
    if masked and len(masked) != len(several):
        raise ValueError(
            f"{counted(len(masked), 'mask')} for {counted(len(several), 'picture')}: pass one for each, or none"
        )
    for example in masked:
        if example.mask.shape != example.picture.shape[1:]:
            raise ValueError(f"masks of {tuple(example.mask.shape)}; (H, W) of the pictures is needed, values 0 to 1")
