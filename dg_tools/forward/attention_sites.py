"""Where a DiT computes attention: the products of its blocks, and which of their tokens are the image's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dg_tools.families import Family
from dg_tools.forward.attention import Inputs, on_products


@dataclass(frozen=True, eq=False)
class AttentionSite:
    """One attention product of a block.

    Attributes:
        block: index of the block, in execution order.
        label: the block's site name; for a second product of the block, with the product's path appended.
        module: the attention module.
        family: the record of the transformer.
        crossed: image tokens attend to the text alone.
    """

    block: int
    label: str
    module: torch.nn.Module
    family: Family
    crossed: bool = False

    def image_queries(self, queries: int, image_tokens: int) -> slice:
        """Which of the product's queries are image tokens."""
        return slice(0, queries) if self.crossed else self.family.image_rows(queries, image_tokens)

    def image_keys(self, keys: int, image_tokens: int) -> slice:
        """Which of the product's keys are image tokens."""
        return slice(0, 0) if self.crossed else self.family.image_rows(keys, image_tokens)

    def keys(self, stream: str, keys: int, image_tokens: int) -> slice:
        """Which of the product's keys are of a stream, `image` or `text`."""
        image = self.image_keys(keys, image_tokens)
        return image if stream == "image" else rest(keys, image)


def rest(whole: int, part: slice) -> slice:
    """The tokens of a sequence beside those of a part at its beginning or its end."""
    if part.start == part.stop:
        return slice(0, whole)
    return slice(part.stop, whole) if part.start == 0 else slice(0, part.start)


def attention_sites(
    family: Family, transformer: torch.nn.Module, blocks: Sequence[int] | None = None
) -> list[AttentionSite]:
    """The attention products of some blocks, in execution order; None: of all blocks that have one.

    Raises:
        ValueError: a family whose attention products are not known, or a block without one.
    """
    sites = []
    for index, (name, record, module) in enumerate(family.blocks(transformer)):
        if blocks is not None and index not in blocks:
            continue
        paths = [(path, path in record.crossed) for path in (*record.products, *record.crossed)]
        there = [(path, crossed) for path, crossed in paths if getattr(module, path, None) is not None]
        if not there and blocks is not None:
            raise ValueError(f"block {index}: {unknown(family)}")
        for i, (path, crossed) in enumerate(there):
            label = name + (f".{path}" if i else "")
            sites.append(AttentionSite(index, label, module.get_submodule(path), family, crossed))
    if not sites:
        raise ValueError(unknown(family))
    return sites


def unknown(family: Family) -> str:
    """Why there is no attention to be read."""
    return (
        f"the record of family {family.name!r} names no attention products, so that attention cannot be read or masked "
        "here; capture, edits of channels and guidance work"
    )


@contextmanager
def on_attention(
    sites: Sequence[AttentionSite], see: Callable[[AttentionSite, Inputs], Inputs | None]
) -> Iterator[None]:
    """Call `see(site, inputs)` with what enters the product of these sites in every forward inside.

    What it returns is used instead; None leaves the inputs as they are. The weights are `forward.attention.Product`.
    """

    def change(index: int, inputs: Inputs) -> Inputs:
        changed = see(sites[index], inputs)
        return inputs if changed is None else changed

    with on_products([site.module for site in sites], change):
        yield
