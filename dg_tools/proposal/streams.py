"""Which of a transformer's lists are its blocks, and where do they keep image and text tokens?

With other latents, only the image tokens change in the first block's inputs: this shows which input holds them, and
which of its tokens they are. From there they are followed from block to block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.proposal.watched import Ran, Watched

SAME = 0.01  # share of a channel's norm that rounding may change


@dataclass(frozen=True)
class Chain:
    """One list of blocks that image tokens pass through.

    Attributes:
        path: the list's attribute.
        ran: its blocks, as they ran.
        returns, hidden, image, text, image_first: as in `BlockList`.
        text_input: the block's input with the text stream; empty where it returns none.
        tokens, text_tokens: how many there are of each; no text tokens where the list returns none.
        width: channels.
    """

    path: str
    ran: list[Ran]
    returns: Literal["tuple", "tensor", "sequence"]
    hidden: str
    image: int
    text: int
    image_first: bool
    text_input: str
    tokens: int
    text_tokens: int
    width: int

    @property
    def counts(self) -> set[int]:
        """Token counts that hidden states may have here: image tokens, text tokens, or both together."""
        return {self.tokens, self.text_tokens, self.tokens + self.text_tokens} - {0}

    def own(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The image tokens in a tensor (rows, tokens, channels); None where it holds none."""
        if tensor.shape[1] == self.tokens:
            return tensor
        if tensor.shape[1] != self.tokens + self.text_tokens:
            return None
        return tensor[:, : self.tokens] if self.image_first else tensor[:, -self.tokens :]

    def stream(self, output: Any) -> torch.Tensor:
        """The image tokens of what a block of the list returned, with however many text tokens."""
        state = output[self.image] if self.returns == "tuple" else output
        return state[:, : self.tokens] if self.image_first else state[:, -self.tokens :]


@dataclass(frozen=True)
class Found:
    """The chains in execution order, and sentences on the lists that are not chains."""

    chains: list[Chain]
    other: list[str]


class Unseen(LookupError):
    """A list that no image token reaches."""


def states(values: dict[str, Any] | tuple | list) -> dict[Any, torch.Tensor]:
    """The values that are hidden states (rows, tokens, channels), by name or position."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    return {k: v for k, v in pairs if isinstance(v, torch.Tensor) and v.ndim == 3 and v.is_floating_point()}


def find_chains(base: Watched, other: Watched, kind: str) -> Found:
    """The lists that image tokens pass through.

    Args:
        base, other: two forwards that differ in their latents.
        kind: the transformer's class.

    Raises:
        ValueError: there are none.
    """
    chains: list[Chain] = []
    words: list[str] = []
    mixed = ""  # a list whose image tokens could not be followed: after it other tokens differ too
    for path in base.paths:
        ran, again = base.of(path), other.of(path)
        before = chains[-1] if chains else None
        try:
            if mixed:
                raise LookupError(f"comes after {mixed}")
            chain = chain_of(path, ran, again, before)
        except Unseen as reason:
            words.append(f"{path} ({len(ran)} of {type(ran[0].block).__name__}) {reason}")
        except LookupError as reason:
            mixed = path
            words.append(f"{path} ({len(ran)} of {type(ran[0].block).__name__}) {reason}")
        else:
            chains.append(chain)
    if not chains:
        lists = "; ".join(words) or "it has no list of blocks"
        raise ValueError(
            f"image tokens (rows, tokens, channels) pass through no list of blocks of this {kind}: {lists}. Write its "
            "record by hand, see CONTRIBUTING.md"
        )
    return Found(chains, words)


def chain_of(path: str, ran: list[Ran], again: list[Ran], before: Chain | None) -> Chain:
    """One list as a chain.

    Raises:
        LookupError: the list is not a chain; the message says why.
        ValueError: its streams cannot be told apart at this size.
    """
    inputs, others = states(ran[0].inputs), states(again[0].inputs)
    moving = [n for n, x in inputs.items() if n in others and x.shape == others[n].shape and not x.equal(others[n])]
    if not moving:
        raise Unseen("does not see the image tokens")
    if before is None:
        if len(moving) > 1:
            raise LookupError(f"is given image tokens in {' and '.join(moving)}")
        (hidden,) = moving
        if len(inputs[hidden]) > 1:
            raise LookupError(f"has {hidden} as (tokens, rows, channels), which is not followed here")
        where = (inputs[hidden] != others[hidden]).any(-1)[0].nonzero().flatten().tolist()
        tokens = len(where)
        if where[-1] - where[0] + 1 != tokens or (where[0] and where[-1] != inputs[hidden].shape[1] - 1):
            raise LookupError(f"has its image tokens neither first nor last in {hidden}")
        first = where[0] == 0
    else:
        tokens = before.tokens
        image = before.stream(before.ran[-1].output)
        fits = [(n, slot) for n in moving for slot in (True, False) if part(inputs[n], tokens, slot, image)]
        if not fits:
            raise LookupError(f"is not given what {before.path} returned")
        hidden, first = fits[0]
    more = inputs[hidden].shape[1] - tokens
    first = first and more > 0
    width = inputs[hidden].shape[-1]
    output = ran[0].output
    if isinstance(output, torch.Tensor):
        if output.shape[:2] != inputs[hidden].shape[:2] or output.shape[-1] != width:
            raise LookupError(f"returns {tuple(output.shape)} for {hidden} of {tuple(inputs[hidden].shape)}")
        kind: Literal["tensor", "sequence"] = "tensor" if output.shape[1] == tokens else "sequence"
        return Chain(path, ran, kind, hidden, 1, 0, first, "", tokens, more, width)
    streams = states(output) if isinstance(output, tuple | list) else {}
    if not 1 <= len(streams) <= 2 or len(output) != 2 or inputs[hidden].shape[1] != tokens:
        raise LookupError(f"returns a {type(output).__name__} that is not one tensor for each of two streams")
    at = image_of(ran, hidden, streams, tokens)
    text = text_name(ran, 1 - at, hidden)
    more = inputs[text].shape[1] if text else 0
    if more == tokens:
        raise ValueError(f"{path} has {tokens} image tokens and as many text tokens: pass another height or width")
    return Chain(path, ran, "tuple", hidden, at, 1 - at, False, text, tokens, more, width)


def part(tensor: torch.Tensor, tokens: int, first: bool, image: torch.Tensor) -> bool:
    """Whether the image tokens of an earlier list are the first, or the last, of this tensor."""
    mine = tensor[:, :tokens] if first else tensor[:, -tokens:]
    return mine.shape == image.shape and mine.equal(image)


def image_of(ran: list[Ran], hidden: str, streams: dict[Any, torch.Tensor], tokens: int) -> int:
    """The position of the image stream in a block's output: the one that the next block gets."""
    if len(ran) > 1:
        given = ran[1].inputs[hidden]
        passed = [at for at, x in streams.items() if x.shape == given.shape and x.equal(given)]
        if passed:
            return passed[0]
    return next(at for at, x in streams.items() if x.shape[1] == tokens)


def text_name(ran: list[Ran], at: int, hidden: str) -> str:
    """The block's input with the text stream."""
    others = [n for n in states(ran[0].inputs) if n != hidden]
    if len(ran) > 1 and isinstance(text := ran[0].output[at], torch.Tensor):
        passed = [n for n in others if (x := ran[1].inputs.get(n)) is not None and x.shape == text.shape]
        others = [n for n in passed if ran[1].inputs[n].equal(text)] or passed
    return others[0] if others else ""


def read_text(found: Found, two: Watched) -> Found:
    """The chains that read the prompt. A list whose image tokens are the same for two prompts only refines them, and is
    left out.

    Args:
        found: of a forward of one row.
        two: a forward of two rows, with two prompts and the same noise.
    """
    kept, words = [], []
    for chain in found.chains:
        image = chain.stream(two.of(chain.path)[-1].output)
        if len(image) == 2 and is_same(image[0], image[1]):
            words.append(f"{chain.path} ({len(chain.ran)} of {type(chain.ran[0].block).__name__}) reads no prompt")
        else:
            kept.append(chain)
    return Found(kept, found.other + words) if kept else found


def is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether hidden states (tokens, channels) differ by rounding alone, in each channel: some are massive."""
    apart = (one.double() - other.double()).norm(dim=0) / one.double().norm(dim=0).clamp_min(1e-30)
    return bool(apart.max() < SAME)


def whole(tensor: torch.Tensor, last: torch.Tensor) -> torch.Tensor | None:
    """A tensor with frames, rows and columns of tokens as (rows, tokens, channels); None for any other tensor."""
    fits = tensor.ndim > 3 and tensor.shape[-1] == last.shape[-1] and tensor.numel() == last.numel()
    return tensor.reshape(last.shape) if fits else None


def find_tail(chain: Chain, base: Watched) -> tuple[str, tuple[str, ...]]:
    """The module that gets the last block's image tokens, and the later modules that get rows without tokens."""
    last = chain.stream(chain.ran[-1].output)
    tail, conditioning = "", []
    for path, _, inputs in base.ended:
        first = next((x for x in inputs if isinstance(x, torch.Tensor)), None)
        if first is None:
            continue
        own = chain.own(first) if first.ndim == 3 else whole(first, last)
        if not tail and own is not None and own.shape == last.shape and own.equal(last.to(own.dtype)):
            tail = path
        elif first.ndim == 2 and len(first) == len(last):
            conditioning.append(path)
    return tail, tuple(conditioning)
