"""Settings of an edit that masks tokens in attention, and its effect on the inputs of a product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.families import Family
from dg_tools.forward.attention import Inputs
from dg_tools.forward.attention_sites import AttentionSite, attention_sites
from dg_tools.forward.call import Call
from dg_tools.interventions.description import listed
from dg_tools.interventions.settings import acts_in
from dg_tools.numbers import integer, integers

ALLOWED = {"stream": ("text", "image"), "path": ("score", "value"), "rows": ("all", "cond", "uncond")}


@dataclass(frozen=True, repr=False)
class MaskSettings:
    """The fields of `MaskTokens`, which describes each of them; sequences are kept as tuples."""

    tokens: Sequence[int]
    block: Any = None
    stream: Literal["text", "image"] = "text"
    path: Literal["score", "value"] = "score"
    steps: Sequence[int] | None = None
    rows: Literal["all", "cond", "uncond"] = "all"
    draw: int = 0
    control: bool = False

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen)
        put("tokens", integers(self.tokens, "tokens"))
        put("draw", integer(self.draw, "draw"))
        if self.steps is not None:
            put("steps", integers(self.steps, "steps"))
        if self.block is not None:
            put("block", tuple(sorted(set(integers(self.block, "block")))))
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name in ("tokens", "block", "steps"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values) or min(values) < 0):
                raise ValueError(f"{name}={list(values)}; name at least one, each once, none negative")

    def __repr__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """The edit in one sentence, with every setting that is not the default."""
        blocks = self.block or ()
        where = f"block{'s' * (len(blocks) > 1)} {listed(blocks, 'blocks')}" if blocks else "every block"
        steps = "" if self.steps is None else f", steps {', '.join(map(str, self.steps))}"
        rows = {"all": "", "cond": ", conditional rows", "uncond": ", unconditional rows"}[self.rows]
        words = f"mask {self.stream} tokens {listed(self.tokens, 'tokens')} as keys ({self.path} path) in {where}"
        return ("control: " if self.control else "") + words + steps + rows + (f" (draw {self.draw})" * self.control)

    def concerns(self, call: Call) -> bool:
        """Whether the edit acts in a call: one of its steps, with rows of its kind."""
        return acts_in(call, self.steps, self.rows)

    def sites(self, family: Family, transformer: torch.nn.Module) -> list[AttentionSite]:
        """The attention products that the edit acts on: those with keys of its stream."""
        sites = attention_sites(family, transformer, self.block)
        return [site for site in sites if not (site.crossed and self.stream == "image")]

    def masked(self, site: AttentionSite, inputs: Inputs, call: Call) -> Inputs | None:
        """A product's inputs with the tokens masked; None if the edit does not act in this call or product.

        Raises:
            IndexError: a token beyond the stream's end.
            ValueError: nothing would be left to attend to.
        """
        key = inputs["key"]
        rows = call.rows(self.rows)
        assert call.image_tokens is not None
        stream = site.keys(self.stream, key.shape[-2], call.image_tokens)
        count = stream.stop - stream.start
        if not self.concerns(call) or not key[rows].shape[0] or not count:
            return None
        if max(self.tokens) >= count:
            raise IndexError(
                f"token {max(self.tokens)} requested; there are 0 to {count - 1} in the {self.stream} stream"
            )
        places = [stream.start + token for token in self.tokens]
        if self.path == "value":
            value = inputs["value"].clone()
            value[rows][..., places, :] = 0
            return {**inputs, "value": value}
        if len(places) == key.shape[-2]:
            raise ValueError(f"{self.sentence()}: every key is masked, and nothing is left to attend to")
        bias = torch.zeros(len(key), 1, 1, key.shape[-2], dtype=key.dtype, device=key.device)
        bias[rows][..., places] = -torch.inf
        own = inputs.get("attn_mask")
        if own is not None and own.dtype == torch.bool:
            own = torch.zeros(own.shape, dtype=key.dtype, device=key.device).masked_fill(~own, -torch.inf)
        return {**inputs, "attn_mask": bias if own is None else own + bias}
