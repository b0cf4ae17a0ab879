"""Plain hooks that apply edits to a transformer; they are always taken off again.

An edit acts at its blocks' outputs; one of mode `gate` at its blocks' AdaLN; `norms="clean"` at every LayerNorm after
its first block, and runs the model once more beforehand. A mask of tokens acts at its blocks' attention products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from dg_tools.families import Family, bind
from dg_tools.forward.attention import Inputs
from dg_tools.forward.attention_sites import AttentionSite, on_attention
from dg_tools.forward.call import Call
from dg_tools.forward.refusals import check_cache
from dg_tools.interventions.description import sentence
from dg_tools.interventions.gates import without_gates
from dg_tools.interventions.mask_settings import MaskSettings
from dg_tools.interventions.modes import edited_output
from dg_tools.interventions.norms import CleanNorms, own_forward
from dg_tools.interventions.report import Changes, Edited
from dg_tools.interventions.settings import EditSettings


def in_words(edit: EditSettings | MaskSettings) -> str:
    """An edit in one sentence."""
    return edit.sentence() if isinstance(edit, MaskSettings) else sentence(edit)


class Attachment:
    """Edits on one transformer: their hooks, the current call, and what each edit has changed."""

    def __init__(
        self,
        transformer: torch.nn.Module,
        family: Family,
        edits: Sequence[EditSettings | MaskSettings],
        read: Call | Callable[[dict[str, Any]], Call],
    ) -> None:
        self.transformer = transformer
        self.family = family
        self.edits = edits
        self.read = read
        self.blocks = [(record, module) for _, record, module in family.blocks(transformer)]
        self.now: Call | None = read if isinstance(read, Call) else None
        self.touched = [0] * len(edits)
        self.changes = [Changes() for _ in edits]
        self.norms = CleanNorms(transformer, family, [edit for edit in edits if isinstance(edit, EditSettings)])
        self.finite: list[tuple[int | None, torch.Tensor]] = []  # step, and whether its prediction is; on the device

    def __repr__(self) -> str:
        return f"Attachment({'; '.join(map(in_words, self.edits))})"

    @property
    def report(self) -> Edited:
        """What the edits did so far."""
        words = tuple(in_words(edit) for edit in self.edits)
        return Edited(words, tuple(self.touched), tuple(changes.mean() for changes in self.changes))

    @property
    def clean(self) -> bool:
        """Whether an edit needs a clean pass before each forward."""
        return bool(self.norms.edits)

    def begin(self, inputs: dict[str, Any]) -> None:
        """Prepare a forward: find which call it is, and run its clean pass if an edit needs one."""
        self.now = self.read if isinstance(self.read, Call) else self.read(inputs)
        if self.now.image_tokens is None:
            tokens = self.family.image_tokens(self.transformer, inputs["hidden_states"])
            self.now = replace(self.now, image_tokens=tokens)
        if self.clean:
            # nested dictionaries are copied: some forwards take things out of them
            again = {k: dict(v) if isinstance(v, dict) else v for k, v in inputs.items()}
            self.norms.collect(lambda: own_forward(self.transformer)(**again), self.now)

    def before(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Pre-hook of the transformer."""
        self.begin(bind(module, args, kwargs))

    def finished(self, module: torch.nn.Module, args: tuple, output: Any) -> None:
        """Hook of the transformer that keeps whether its prediction is finite; it is read at the end."""
        sample = output[0] if self.family.inputs is None else self.family.inputs.prediction(output[0])
        self.finite.append((self.now.step if self.now else None, sample.isfinite().all()))

    def check_finite(self) -> None:
        """Raise RuntimeError if a prediction was not finite. Call it after a run: it waits for the device."""
        whether = torch.stack([good for _, good in self.finite]).tolist() if self.finite else []
        if all(whether):
            return
        step = self.finite[whether.index(False)][0]
        raise RuntimeError(
            f"the prediction is not finite{'' if step is None else f' from step {step} on'} under "
            f"{'; '.join(in_words(edit) for edit in self.edits)}: the hidden states overflow {self.transformer.dtype} "
            "there or in a later block; take a smaller dose, or float32 or bfloat16"
        )

    def off(self, edit: EditSettings) -> bool:
        """Whether an edit does not act in this forward: no call is known, or it is the edit's own clean pass."""
        return self.now is None or (self.norms.collecting and edit.norms == "clean")

    def after(self, block: int) -> Callable:
        """Hook of a block: every edit of its output, in order."""
        record = self.blocks[block][0]

        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
            for i, edit in enumerate(self.edits):
                if isinstance(edit, MaskSettings) or block not in edit.blocks or edit.mode == "gate" or self.off(edit):
                    continue
                assert self.now is not None
                edited = edited_output(edit, output, record, self.now)
                if edited is not None:
                    self.touched[i] += 1
                    tokens = self.now.image_tokens
                    after, before = (record.get(x, edit.stream, tokens) for x in (edited, output))
                    assert after is not None and before is not None
                    rows = self.now.uncond if edit.rows == "uncond" else slice(None)
                    self.changes[i].add(after[rows], before[rows])
                    output = edited
            return output

        return hook

    def ungated(self, block: int, value: torch.Tensor) -> torch.Tensor:
        """A block's AdaLN chunks after every edit of its gates."""
        record, module = self.blocks[block]
        for i, edit in enumerate(self.edits):
            if isinstance(edit, MaskSettings) or edit.mode != "gate" or block not in edit.blocks or self.off(edit):
                continue
            assert self.now is not None
            edited = without_gates(edit, value, record, module, self.family.width(self.transformer), self.now)
            if edited is not None:
                self.touched[i] += 1
                self.changes[i].add(edited, value)
                value = edited
        return value

    def gate_hook(self, block: int) -> Any:
        """Register a hook at the source of the block's AdaLN chunks; return the handle."""
        record, module = self.blocks[block]
        return record.on_modulation(module, lambda value: self.ungated(block, value))

    def hooks(self) -> Iterator[Any]:
        """Register every hook; yields the handles."""
        if self.edits:
            yield self.transformer.register_forward_pre_hook(self.before, with_kwargs=True)
            yield self.transformer.register_forward_hook(self.finished)
        outputs = [edit for edit in self.edits if isinstance(edit, EditSettings)]
        for block in sorted({b for e in outputs for b in e.blocks}):
            yield self.blocks[block][1].register_forward_hook(self.after(block))
            if any(e.mode == "gate" and block in e.blocks for e in outputs):
                yield self.gate_hook(block)
        yield from self.norms.hooks()

    def mask(self, index: int, site: AttentionSite, inputs: Inputs) -> Inputs | None:
        """The inputs of an attention product under one mask; it is computed twice, to measure the change."""
        edit = self.edits[index]
        assert isinstance(edit, MaskSettings)
        changed = None if self.now is None else edit.masked(site, inputs, self.now)
        if changed is not None and self.now is not None:
            rows = self.now.rows(edit.rows)
            before, after = (F.scaled_dot_product_attention(**x)[rows] for x in (inputs, changed))
            self.touched[index] += 1
            self.changes[index].add(after, before)
        return changed

    @contextmanager
    def masking(self) -> Iterator[None]:
        """Every mask of tokens is on in a forward inside."""
        with ExitStack() as stack:
            for i, edit in enumerate(self.edits):
                if isinstance(edit, MaskSettings):
                    sites = edit.sites(self.family, self.transformer)
                    stack.enter_context(on_attention(sites, partial(self.mask, i)))
            yield


@contextmanager
def attached(
    transformer: torch.nn.Module,
    family: Family,
    edits: Sequence[EditSettings | MaskSettings],
    read: Call | Callable[[dict[str, Any]], Call],
    *,
    checked: bool = False,
) -> Iterator[Attachment]:
    """Edits on a transformer through plain hooks, always taken off again.

    Args:
        transformer, family: the model and its record.
        edits: applied in order at each block.
        read: the `Call` of every forward inside, or a function that returns it from the transformer's inputs.
        checked: whether step caches were looked for already; the search visits every module of the model.

    Yields:
        The attachment. If you call `transformer.forward` directly, which bypasses hooks, call `begin(inputs)` first.

    The clean pass of `norms="clean"` runs all blocks, and counts as a forward wherever block calls or forwards are
    counted. Other edits are on in it; edits with `norms="clean"` are not.

    Raises:
        ValueError: a step cache is on.
        RuntimeError: on a normal exit, for an edit that touched nothing.
    """
    if edits and not checked:
        check_cache(transformer)
    attachment = Attachment(transformer, family, edits, read)
    with ExitStack() as stack:
        for handle in attachment.hooks():
            stack.callback(handle.remove)
        stack.enter_context(attachment.masking())
        yield attachment
    for edit, count in zip(edits, attachment.touched, strict=True):
        if count == 0:
            raise RuntimeError(f"this edit touched nothing: {in_words(edit)}; check its steps and rows against the run")
