"""Mask tokens in attention: no token can attend to them. They are masked as keys, on the score or the value path.

On the score path their scores are minus infinity, so the softmax gives their weight to the other tokens. On the value
path the weights stay, and the masked tokens' values are zero: their contribution is missing, and nothing replaces it.
"Attention Sinks in Diffusion Transformers" (arXiv 2605.09313) masks sinks on both paths, against as many random tokens.
The control here is random tokens that together receive as much attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from dg_tools.forward.clock import Clock
from dg_tools.interventions.hooks import Attachment, attached
from dg_tools.interventions.mask_settings import MaskSettings
from dg_tools.interventions.validation import check_keys
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_runs


@dataclass(frozen=True, repr=False)
class MaskTokens(MaskSettings):
    """An edit that keeps some tokens from being attended to; it goes wherever a `Disrupt` goes as `edits=`.

    Args:
        tokens: indices in their stream; text tokens in the order of the text stream, image tokens y * columns + x.
        block: index into `dit.blocks`, or several; None: every block that has attention over them.
        stream: `text` or `image`: which tokens are masked, for the queries of all tokens.
        path: `score`: their scores are minus infinity; `value`: their values are zero.
        steps: denoising steps; None for all.
        rows: `all`, or `cond` or `uncond` for one half of classifier-free guidance only.
        draw: number of the draw of a control.
        control: whether this edit is a control of another one.

    Raises:
        TypeError, ValueError: no tokens, one twice, a negative one, or an unknown stream, path or rows.

    Example:
        >>> MaskTokens([0, 3], block=2)
        mask text tokens 0, 3 as keys (score path) in block 2
    """

    def to_json(self) -> dict[str, Any]:
        """The edit as plain JSON, which `from_json` reads."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> MaskTokens:
        """An edit from `to_json`.

        Raises:
            TypeError: something other than a mapping.
            ValueError: an unknown key; the message lists the known ones.
        """
        check_keys(settings, cls)
        return cls(**settings)

    def controls(self, n: int, mass: Sequence[float] | np.ndarray, *, seed: int = 0) -> list[MaskTokens]:
        """`n` controls: random other tokens of the same stream, the same for the same seed.

        Args:
            n: how many draws.
            mass: attention mass of each token of the stream, such as `Attention.token_mass(stream)`. Each draw takes
                tokens until together they receive as much as the masked ones, to within one token.
            seed: of the draws.

        Raises:
            ValueError: n < 1, or other tokens that together receive less.
            IndexError: a masked token beyond the stream's end.
        """
        if n < 1:
            raise ValueError(f"n={n} controls requested; at least 1")
        weights = np.asarray(mass, float)
        if max(self.tokens) >= len(weights):
            raise IndexError(f"token {max(self.tokens)} is masked; mass= has {len(weights)} tokens")
        target = weights[list(self.tokens)].sum()
        others = np.setdiff1d(np.arange(len(weights)), self.tokens)
        if weights[others].sum() < target:
            raise ValueError(
                f"the masked tokens receive {target:.3g} of the attention, all other {self.stream} tokens "
                f"together {weights[others].sum():.3g}: no control can have equal mass, so mask fewer tokens"
            )
        draws = [seed * 100_003 + i for i in range(n)]
        return [replace(self, tokens=equal_mass(weights, others, target, d), draw=d, control=True) for d in draws]

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise, before any long work, if blocks, tokens or steps do not exist in this run."""
        for block in self.block or ():
            dit.block(block)
        if not self.sites(dit.family, dit.transformer):
            raise ValueError(f"{self.sentence()}: no attention there has keys of the {self.stream} stream")
        rows, columns = dit.grid(height, width)
        if self.stream == "image" and "num_frames" not in dit.takes and max(self.tokens) >= rows * columns:
            raise IndexError(f"token {max(self.tokens)} requested; there are 0 to {rows * columns - 1} image tokens")
        if steps is not None and self.steps is not None and max(self.steps) >= steps:
            raise IndexError(f"step {max(self.steps)} requested; there are 0 to {steps - 1}")

    @contextmanager
    def on(self, pipeline: Any) -> Iterator[Attachment]:
        """Edit every call of a pipeline of your own: `with mask.on(pipe) as run: pipe("red apple")`.

        Yields:
            An object whose `.report` (`Edited`) says how many attention products were changed, and by how much.

        Raises:
            IndexError: at the first forward, if a token does not exist.
            RuntimeError: at the end, if the edit touched nothing.
        """
        check_runs(pipeline, "MaskTokens.on")
        dit = load(pipeline)
        for block in self.block or ():
            dit.block(block)
        clock = Clock(dit.pipeline, dit.family)
        with dit.running(), clock, attached(dit.transformer, dit.family, [self], clock.read) as attachment:
            yield attachment
        attachment.check_finite()


def equal_mass(weights: np.ndarray, others: np.ndarray, target: float, draw: int) -> list[int]:
    """Tokens in a random order until their weights come nearest to the target."""
    order = np.random.default_rng(draw).permutation(others)
    total = np.cumsum(weights[order])
    count = int(np.searchsorted(total, target)) + 1
    if count > 1 and target - total[count - 2] < total[min(count, len(total)) - 1] - target:
        count -= 1
    return sorted(int(t) for t in order[:count])
