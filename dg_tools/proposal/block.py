"""One block run alone, again and again: where its AdaLN chunks come from, and what each of them does.

A chunk is identified by its effect: its value in one channel is changed, and the first hidden states that differ are
compared. A shift changes every token alike. A gate changes them in proportion to a branch's output. Any other change is
a scale. The branch that changes next is the one that a shift or scale belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from dg_tools.proposal.streams import Chain
from dg_tools.proposal.watched import Ran
from dg_tools.proposal.writers import COARSE, EXACT, Writer, candidates_of, find_writers

MOST_CHUNKS = 18
Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Seen:
    """Hidden states inside a block, (1, tokens, channels): a part's input or output; `at` is the place in a tuple."""

    path: str
    gives: bool
    at: int
    value: torch.Tensor


@dataclass(frozen=True)
class Source:
    """Where chunks come from: a linear layer of the block, or one of its inputs, with `more` rows at its end."""

    path: str
    is_input: bool
    count: int
    more: int = 0


class BlockRun:
    """A block that can be run again with the inputs that it had.

    Attributes:
        chain: its list.
        ran: how it ran.
        base: hidden states inside it, in order; `candidates` are those that its parts give.
        written: what it adds to the image tokens, (tokens, channels).
        writers: the parts whose gated sum equals `written`; empty where no sum does.
        channel: the channel in which chunks are changed.
    """

    def __init__(self, chain: Chain, ran: Ran) -> None:
        self.chain, self.ran, self.block = chain, ran, ran.block
        self.base = self.seen()
        before = chain.own(ran.inputs[chain.hidden])
        assert before is not None
        after = chain.stream(ran.output)
        self.written = (after.double() - before.double())[0]
        self.candidates = candidates_of(self.base, chain.tokens, chain.text_tokens, chain.width)
        self.dtype = after.dtype
        self.writers = find_writers(self.written, self.candidates, self.dtype)
        self.channel = int((self.written.std(0) / (before[0].double().abs().mean(0) + 1e-6)).argmax())

    def seen(self, source: Source | None = None, change: Change | None = None) -> list[Seen]:
        """Hidden states inside the block and at its end, with the chunks of `source` changed."""
        found: list[Seen] = []
        inputs = dict(self.ran.inputs)
        counts = self.chain.counts
        if source is not None and source.is_input and change is not None:
            inputs[source.path] = change(inputs[source.path])

        def add(path: str, gives: bool, values: Any) -> None:
            for at, value in enumerate(values):
                tokens = self.as_tokens(value)
                if tokens is not None and tokens.shape[1] in counts:
                    found.append(Seen(path, gives, at, tokens.detach().clone()))

        with ExitStack() as hooks, torch.no_grad():
            for path, module in self.block.named_modules():
                if not path:
                    continue
                if source is not None and path == source.path and not source.is_input and change is not None:
                    hooks.callback(module.register_forward_hook(lambda m, a, o: change(o)).remove)
                give = lambda m, a, k, p=path: add(p, False, (*a, *k.values()))  # noqa: E731
                take = lambda m, a, o, p=path: add(p, True, o if isinstance(o, tuple) else (o,))  # noqa: E731
                hooks.callback(module.register_forward_pre_hook(give, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(take).remove)
            output = self.block(**inputs)
        add("", True, output if isinstance(output, tuple | list) else (output,))
        return found

    def as_tokens(self, value: Any) -> torch.Tensor | None:
        """Hidden states as (rows, tokens, channels): also a convolution's (rows, channels, y, x)."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return None
        if value.ndim == 4 and value.shape[1] == self.chain.width and value[0, 0].numel() == self.chain.tokens:
            return value.flatten(2).transpose(1, 2)
        return value if value.ndim == 3 and value.shape[-1] == self.chain.width else None

    # -- chunks -------------------------------------------------------------------------------------------------------

    def sources(self) -> list[Source]:
        """Where chunks may come from, by shape."""
        width, rows = self.chain.width, len(self.ran.inputs[self.chain.hidden])
        found = []
        for path, module in self.block.named_modules():
            if isinstance(module, torch.nn.Linear) and module.out_features % width == 0:
                count = module.out_features // width
                if 2 <= count <= MOST_CHUNKS and self.is_vector(path):
                    found.append(Source(path, False, count))
        for name, value in self.ran.tensors().items():
            if (
                name in (self.chain.hidden, self.chain.text_input)
                or not value.is_floating_point()
                or value.ndim not in (2, 3)
            ):
                continue
            count, left = divmod(value[0].numel(), width)
            whole = value.ndim == 2 or value.shape[-1] == width or value.shape[1] == 1
            if whole and not left and 2 <= count <= MOST_CHUNKS and 0 <= len(value) - rows <= 1:
                found.append(Source(name, True, count, len(value) - rows))
        return found

    def is_vector(self, path: str) -> bool:
        """Whether a part of the block gives (rows, channels), without tokens."""
        kept = self.given_by(path)
        return len(kept) == 1 and kept[0].numel() == len(kept[0]) * kept[0].shape[-1]

    def value(self, source: Source) -> torch.Tensor:
        """The chunks (chunks, channels) of the first row."""
        if source.is_input:
            return self.ran.inputs[source.path][0].reshape(-1, self.chain.width)
        return self.given_by(source.path)[0][0].reshape(-1, self.chain.width)

    def given_by(self, path: str) -> list[torch.Tensor]:
        """The outputs of a part of the block, one for each of its calls."""
        kept: list[torch.Tensor] = []
        handle = self.block.get_submodule(path).register_forward_hook(lambda m, a, o: kept.append(o))
        with torch.no_grad():
            self.block(**self.ran.inputs)
        handle.remove()
        return kept

    def roles(self, source: Source, branches: list[tuple[str, Writer]]) -> tuple[str | None, ...]:
        """The name of each chunk; None for one that does nothing to the image tokens by itself.

        Args:
            source: of the chunks.
            branches: (suffix, part), in the order in which they run; a suffix is `_msa`, or empty for a joint one.

        Raises:
            LookupError: a chunk is not a shift, scale or gate of a branch; the message says what it changes.
        """
        return tuple(self.role(source, index, branches) for index in range(source.count))

    def role(self, source: Source, index: int, branches: list[tuple[str, Writer]]) -> str | None:
        width, channel = self.chain.width, self.channel

        def change(value: torch.Tensor) -> torch.Tensor:
            changed = value.clone(memory_format=torch.contiguous_format)
            rows = changed[: len(changed) - source.more] if source.more else changed
            chunk = rows.view(len(rows), -1, width)[:, index, channel]
            chunk.copy_(torch.where(chunk.abs() > 0.5, 0.0, chunk + 1.0))  # a large tanh no longer grows
            return changed

        again = self.seen(source, change)
        if len(again) != len(self.base):
            raise LookupError("runs other parts when a chunk changes")
        first: torch.Tensor | None = None
        for one, other in zip(self.base, again, strict=True):
            if one.value.equal(other.value):
                continue
            own = self.chain.own(other.value), self.chain.own(one.value)
            if first is None and own[0] is not None and own[1] is not None and not own[0].equal(own[1]):
                first = (own[0].double() - own[1].double())[0]
                path = one.path
            if first is None and one.path:  # text tokens change first; at the block's end both streams may
                return None
        if first is None:
            return None
        others = first.abs().amax(0)
        others[channel] = 0
        if others.max() > 1e-3 * first[:, channel].abs().max():
            raise LookupError(f"changes all channels of {path or 'the output'}, not its own alone")
        effect = first[:, channel]
        if (effect - effect.mean()).abs().max() <= 1e-2 * effect.mean().abs():
            kind = "shift"
        else:
            for suffix, writer in branches:
                if torch.cosine_similarity(effect, writer.output[:, channel].double(), 0).abs() > 0.999:
                    return f"gate{suffix}"
            kind = "scale"
        for suffix, writer in branches:
            for one, other in zip(self.base, again, strict=True):
                same = one.gives and (one.path, one.at) == (writer.path, writer.at)
                if same and self.chain.own(one.value) is not None and not one.value.equal(other.value):
                    return f"{kind}{suffix}"
        raise LookupError(f"changes {path or 'the output'}, and no branch after it")

    # -- gates --------------------------------------------------------------------------------------------------------

    def acting(
        self, source: Source, roles: tuple[str | None, ...], gates: dict[str, Writer]
    ) -> tuple[str, bool | None]:
        """How chunks become gates: the block's own parameter that is added to them, and whether by a tanh.

        Args:
            source: of the chunks. roles: their names.
            gates: by name of its chunk, the part that it scales.

        Returns:
            The parameter's name, empty for none; and True for a tanh, False without one, None where neither fits as
            well as free gates.
        """
        shape = (source.count, self.chain.width)
        own = {n: p.detach() for n, p in self.block.named_parameters(recurse=False) if tuple(p.shape[-2:]) == shape}
        pairs = [(gates[name], i) for i, name in enumerate(roles) if name in gates]
        if not pairs:
            return next(iter(own), ""), False
        value = self.value(source).double()
        found: list[tuple[float, str, bool]] = []
        for name in ("", *own):
            chunks = value + own[name].double().reshape(shape) if name else value
            for tanh in (False, True):
                rows = chunks.tanh() if tanh else chunks
                found.append((self.left({part.path: rows[i] for part, i in pairs}), name, tanh))
        left, table, by_tanh = min(found)
        most = max(3 * self.left({}), EXACT.get(self.dtype, COARSE))
        return table, by_tanh if left <= most else None

    def left(self, gates: dict[str, torch.Tensor]) -> float:
        """The share of the block's addition that the gated sum leaves, with other gates for some of its parts."""
        total = sum(w.output.double() * gates.get(w.path, w.gate) for w in self.writers)
        return float((self.written - total).norm() / self.written.norm())
