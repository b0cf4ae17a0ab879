"""Records the attention that each key token receives in one run; whole maps only if requested.

As in `recorder`, only the first call of each step and branch is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr

from dg_tools.forward.attention import Inputs, Product
from dg_tools.forward.attention_sites import AttentionSite, on_attention, rest
from dg_tools.forward.call import NOTHING, Call
from dg_tools.kinds import some
from dg_tools.models.dit import DiT

QUERIES = ("image", "text")


@dataclass(frozen=True)
class AttentionPlan:
    """The parts of a run's attention that are kept.

    Attributes:
        sites: which products.
        branches: `cond`, `uncond`.
        steps: how many.
        heads, image, text: how many heads, image tokens and text tokens there are.
        words: by word, its indices in the text stream.
        whole: indices into `sites` of the products whose maps are kept whole; at the steps `whole_steps`.
    """

    sites: tuple[AttentionSite, ...]
    branches: tuple[str, ...]
    steps: int
    heads: int
    image: int
    text: int
    grid: tuple[int, int]
    words: Mapping[str, Sequence[int]] = field(default_factory=dict)
    whole: tuple[int, ...] = ()
    whole_steps: tuple[int, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of one run."""
        lead = (len(self.branches), self.steps, len(self.sites), self.heads)
        tokens = self.image + self.text
        shapes: dict[str, tuple[int, ...]] = {"mass": (*lead, len(QUERIES), tokens)}
        if self.words:
            shapes["word_map"] = (*lead, len(self.words), *self.grid)
        if self.whole:
            maps = (len(self.branches), len(self.whole_steps), len(self.whole), self.heads)
            shapes["weights"] = (*maps, tokens, tokens)
        return shapes


class AttentionRecorder:
    """Reads the attention of one run into arrays, which `dataset()` labels.

    Args:
        dit: the model.
        plan: what is kept.
    """

    def __init__(self, dit: DiT, plan: AttentionPlan) -> None:
        self.dit = dit
        self.plan = plan
        self.arrays = {name: np.full(shape, np.nan, np.float32) for name, shape in plan.shapes.items()}
        self.sigmas: dict[int, float] = {}
        self.seen: set[tuple[int, str]] = set()
        self._depth = 0  # calls of the transformer within another: a disrupted pass
        self._call: Call | None = None
        self._rows: list[tuple[int, int]] = []  # (branch, row) that are recorded
        self._visited: set[str] = set()

    def begin(self, call: Call) -> None:
        """A call of the transformer begins."""
        self._depth += 1
        if self._depth > 1:
            return
        self._call, self._visited = None, set()
        if call.step is None or call.branch == "other":
            return
        rows = {"cond": call.cond, "uncond": call.uncond}
        self._rows = [
            (i, rows[branch].start or 0)
            for i, branch in enumerate(self.plan.branches)
            if (call.step, branch) not in self.seen and rows[branch] != NOTHING
        ]
        if self._rows:
            self._call = call

    def end(self, failed: bool) -> None:
        """A call of the transformer ends."""
        self._depth -= 1
        if self._depth or failed or self._call is None or self._call.step is None:
            return
        self.sigmas[self._call.step] = self._call.sigma
        self.seen |= {(self._call.step, self.plan.branches[i]) for i, _ in self._rows}
        self._call = None

    def see(self, site: AttentionSite, inputs: Inputs) -> None:
        """One product; its inputs stay as they are."""
        call = self._call
        if call is None or call.step is None or self._depth > 1 or site.label in self._visited:
            return
        self._visited.add(site.label)
        tokens = call.image_tokens
        assert tokens is not None
        for branch, row in self._rows:
            self.read(site, Product(inputs, row), (branch, call.step), tokens)

    def read(self, site: AttentionSite, product: Product, at: tuple[int, int], image_tokens: int) -> None:
        """The weights of one row, some queries at a time."""
        plan, place = self.plan, self.plan.sites.index(site)
        branch, step = at
        queries, keys = product.query.shape[1], product.key.shape[1]
        image, image_keys = site.image_queries(queries, image_tokens), site.image_keys(keys, image_tokens)
        text, text_keys = rest(queries, image), rest(keys, image_keys)
        columns = ((image_keys, slice(0, plan.image)), (text_keys, slice(plan.image, None)))
        words = torch.zeros(len(plan.words), text_keys.stop - text_keys.start, device=product.key.device)
        for i, indices in enumerate(plan.words.values()):
            words[i, list(indices) if words.shape[1] else []] = 1
        fields: list[torch.Tensor] = []
        whole = self.whole_map(branch, step, place)

        def put(target: np.ndarray, weights: torch.Tensor) -> None:
            for source, kept in columns:
                if source.stop > source.start:
                    target[..., kept] = weights[..., source].float().cpu().numpy()

        for i, (part, first) in enumerate(((image, 0), (text, plan.image))):

            def see(chunk: slice, weights: torch.Tensor, part: slice = part, first: int = first) -> None:
                if plan.words and part is image and words.shape[1]:
                    fields.append(torch.einsum("hqk,wk->hwq", weights[..., text_keys].float(), words))
                if whole is not None:
                    begin = first + chunk.start - part.start
                    put(whole[:, begin : begin + chunk.stop - chunk.start], weights)

            if part.stop > part.start:
                put(self.arrays["mass"][branch, step, place, :, i], product.mass(part, see))
        if fields:
            own = plan.grid[0] * plan.grid[1]
            over = torch.cat(fields, -1)[..., :own].cpu().numpy()
            self.arrays["word_map"][branch, step, place] = over.reshape(*over.shape[:2], *plan.grid)

    def whole_map(self, branch: int, step: int, place: int) -> np.ndarray | None:
        """The array for the whole map of a product, (heads, queries, keys); None if it is not kept."""
        plan = self.plan
        if place not in plan.whole or step not in plan.whole_steps:
            return None
        return self.arrays["weights"][branch, plan.whole_steps.index(step), plan.whole.index(place)]

    def finish(self) -> None:
        """Raise RuntimeError where a step or branch is missing."""
        missing = {(s, b) for s in range(self.plan.steps) for b in self.plan.branches} - self.seen
        if missing:
            raise RuntimeError(
                f"the run gave {len(self.sigmas)} of {self.plan.steps} steps, without "
                f"{some(sorted(missing), 3)} (step, branch): it ended early, or a callback ended its guidance "
                "(rows='cond' reads such a run)"
            )

    def dataset(self) -> xr.Dataset:
        """Everything as labelled arrays; NaN where there is nothing (no text in an attention of the image alone)."""
        plan = self.plan
        lead = ("branch", "step", "site", "head")
        dims = {"mass": (*lead, "query", "key"), "word_map": (*lead, "word", "row", "column")}
        dims["weights"] = ("branch", "map_step", "map_site", "head", "from_key", "key")
        coords: dict[str, Any] = {
            "branch": list(plan.branches),
            "step": list(range(plan.steps)),
            "site": [site.label for site in plan.sites],
            "block": ("site", [site.block for site in plan.sites]),
            "query": list(QUERIES),
            "stream": ("key", ["image"] * plan.image + ["text"] * plan.text),
            "token": ("key", [*range(plan.image), *range(plan.text)]),
            "sigma": ("step", [self.sigmas.get(s, np.nan) for s in range(plan.steps)]),
        }
        coords |= {"word": list(plan.words)} if plan.words else {}
        if plan.whole:
            labels = [plan.sites[i].label for i in plan.whole]
            coords |= {"map_step": list(plan.whole_steps), "map_site": labels}
        return xr.Dataset({name: (dims[name], array) for name, array in self.arrays.items()}, coords)


@contextmanager
def reading_attention(dit: DiT, recorder: AttentionRecorder, call: Callable[[], Call]) -> Iterator[None]:
    """Attention in calls of the transformer inside is recorded; `call` gives the call that begins."""

    def begin(module: torch.nn.Module, args: tuple) -> None:
        recorder.begin(call())

    def end(module: torch.nn.Module, args: tuple, output: Any) -> None:
        recorder.end(failed=output is None)

    with ExitStack() as stack:
        stack.callback(dit.transformer.register_forward_pre_hook(begin).remove)
        stack.callback(dit.transformer.register_forward_hook(end, always_call=True).remove)
        stack.enter_context(on_attention(recorder.plan.sites, recorder.see))
        yield
