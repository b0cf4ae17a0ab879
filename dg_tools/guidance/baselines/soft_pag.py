"""SoftPAG (Ahn et al., arXiv 2506.10978): in the weak model, some attention heads look less at other tokens.

    A' = (1 - u) A + u I     for some heads of some blocks (equation 7)

In such a head each token, text tokens included, gets its own value with share u and the attention output with share 1 -
u, as in the authors' code (`attention_identity@scale=u` of github.com/cvlab-kaist/HeadHunter). So u = 1 with all heads
is not `PAG` here, which keeps the text. The authors use it on SD3-Medium (layer 9, w = 5, 20 steps, no CFG) and on
FLUX.1-dev, with heads that HeadHunter chose by generating pictures with each of them; that search is not implemented
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.attention import attentions, computed
from dg_tools.guidance.baselines.perturbed import InBlocks
from dg_tools.models.dit import DiT
from dg_tools.numbers import number


class SoftPAG(InBlocks):
    """SoftPAG: `SoftPAG(3.0, 1.0, blocks=[6], mix=0.5)`, or of some heads, `heads=[(6, 0), (6, 3)]`.

    Args:
        mix: u, more than 0 and at most 1 (the identity).
        heads: (block, head) pairs, each block of `blocks` at least once; None: all heads.
        guidance_scale, weight, blocks, others: as in `InBlocks`.

    Raises:
        ValueError: mix out of range, heads that are not pairs of these blocks. IndexError: a head that does not exist,
            when the model is known.
    """

    short = "SoftPAG"

    def __init__(
        self,
        guidance_scale: float | None = None,
        weight: float = 1.0,
        *,
        blocks: int | Sequence[int] = (),
        mix: float = 0.5,
        heads: Sequence[Sequence[int]] | None = None,
        **others: Any,
    ) -> None:
        if not 0 < number(mix, "mix") <= 1:
            raise ValueError(f"mix={mix}; the share of the identity, more than 0 and at most 1")
        pairs = None if heads is None else sorted([int(n) for n in pair] for pair in heads)
        super().__init__(guidance_scale, weight, blocks=blocks, mix=mix, heads=pairs, **others)
        if pairs is not None and ({pair[0] for pair in pairs} != set(self.blocks) or any(len(p) != 2 for p in pairs)):
            raise ValueError(
                f"heads={heads}; pass (block, head) pairs, at least one for each of the blocks {self.blocks}"
            )
        self.mix = mix
        self.heads = pairs

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `InBlocks`, and IndexError for heads that do not exist."""
        super().check(dit, steps, height, width)
        for block, head in self.heads or []:
            modules: list[Any] = attentions(dit, [block])
            count = min(module.heads for module in modules)
            if not 0 <= head < count:
                raise IndexError(f"head {head} of block {block}; there are 0 to {count - 1}")

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """Attention maps are mixed with the identity."""

        def mixed(attend: Callable[..., torch.Tensor], inputs: dict[str, Any], block: int) -> torch.Tensor:
            output, value = attend(**inputs), inputs["value"]
            if self.heads is None:
                return (1 - self.mix) * output + self.mix * value
            output, chosen = output.clone(), [head for b, head in self.heads if b == block]
            output[:, chosen] = (1 - self.mix) * output[:, chosen] + self.mix * value[:, chosen]
            return output

        with computed(dit, self.blocks, mixed):
            yield
