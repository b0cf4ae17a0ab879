"""Compute the degraded prediction of a step: by a fork inside the forward, a rerun from a block, or a second forward.

The disrupted rows come from a fork inside the same forward (`fork`). If something else acts on the blocks, or the
family's forward cannot take more rows (PixArt, Sana), they come from a rerun of the blocks after the disrupted one
(`partial`). If a family forbids both, they come from a second forward (`whole`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch

from dg_tools.forward.active import active
from dg_tools.forward.call import Call
from dg_tools.forward.fork import foreign_hooks, forked, nested_rows, own_processors
from dg_tools.forward.replaced import replaced
from dg_tools.forward.restart import Restart, why_not
from dg_tools.forward.rows import rows_of
from dg_tools.guidance.base import Guidance
from dg_tools.guidance.baselines.in_pass import InPass
from dg_tools.guidance.baselines.perturbed import Perturbed
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.guidance.run import Run, disrupting
from dg_tools.interventions import Disrupt, attached
from dg_tools.models.dit import DiT

logger = logging.getLogger("dg_tools")

Way = Literal["fork", "partial", "whole"]
Prediction = torch.Tensor | None


class Passes:
    """The forwards of one step, on one transformer.

    Args:
        dit: the model.
        guider, way, force: as in `detail_guidance`.

    Attributes:
        run: the run that records how far the disrupted block's output is from the clean one.
        unguided: the transformer's forward without the guidance.
    """

    def __init__(self, dit: DiT, guider: Guidance, way: Way, force: bool) -> None:
        self.dit = dit
        self.guider = guider
        self.way = way
        self.force = force
        self.run = Run()
        self.unguided: Callable[..., Any] = dit.transformer.forward
        self.warnings: set[str] = set()
        self.scale = 1.0  # the run's CFG scale

    def __call__(self, inputs: dict[str, Any], call: Call, needed: bool) -> tuple[torch.Tensor, Prediction]:
        """The prediction of all rows, and the degraded one of the conditional rows where it is needed."""
        if not needed and not (self.force and self.disrupts and not self.guider.in_pass):
            return self.own(inputs, call), None
        if isinstance(self.guider, Perturbed):
            return self.perturbed(self.guider, inputs, call)
        way = "partial" if self.force and self.way == "fork" else self.way
        reason = self.why_whole(inputs)
        if way != "whole" and reason:
            self.warn_once(f"the disrupted pass runs whole, because {reason}")
            way = "whole"
        if way == "fork" and self.dit.family.fork and self.alone and not nested_rows(inputs):
            return self.fork(inputs, call)
        return self.whole(inputs, call) if way == "whole" else self.partial(inputs, call)

    def own_edit(self, call: Call) -> Disrupt | None:
        """The guidance's edit of the pipeline's own pass, where it acts in this call."""
        assert call.step is not None and call.steps is not None
        edit = self.guider.own_edit if self.guider.acts(call.step, call.steps) else None
        return edit if edit is not None and edit.concerns(call) else None

    def own(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """The pipeline's own pass, all rows; with the guidance's edit of it on, where there is one."""
        if isinstance(self.guider, InPass):
            return self.in_pass(self.guider, inputs, call)
        edit = self.own_edit(call)
        if edit is None:
            return self.unguided(**inputs)[0]
        with attached(self.dit.transformer, self.dit.family, [edit], call, checked=True) as attachment:
            attachment.begin(inputs)  # the transformer's own pre-hooks are past
            prediction = self.unguided(**inputs)[0]
        self.run.disrupted(call, attachment.changes[0].total())
        return prediction

    def in_pass(self, guider: InPass, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """The pipeline's own pass under a guidance that changes its inputs, its computation or its output."""
        assert call.step is not None and call.steps is not None
        if not guider.acts(call.step, call.steps):
            return self.unguided(**inputs)[0]
        about = (call, call.steps, self.scale)
        told = guider.told(inputs, *about)
        prediction = guider.predicted(self.dit, told, call, lambda rows, at: self.unguided(**rows)[0], self.again)
        given = guider.given(prediction, inputs, *about)
        if given is not prediction and told is inputs:  # this is the prediction without it
            self.run.add(call.step, prediction, given, given - prediction, call.sigma)
        else:
            self.run.acted(call.step, given)
        self.run.note(guider.note(call.steps, self.scale))
        return given

    def why_whole(self, inputs: dict[str, Any]) -> str | None:
        """Why the disrupted pass cannot start from a stored output, in words; None where it can."""
        # an edit's clean pass, inside a rerun, would start from an output that has other edits in it already
        hooks = self.dit.transformer._forward_pre_hooks.values()
        if any(getattr(getattr(hook, "__self__", None), "clean", False) for hook in hooks):
            return "an edit asks for LayerNorm statistics of a clean pass"
        return why_not(self.dit.family, inputs) or (self.disrupt.why_whole if self.disrupts else None)

    def warn_once(self, sentence: str) -> None:
        """One warning per context."""
        if sentence not in self.warnings:
            self.warnings.add(sentence)
            logger.warning(sentence)

    @property
    def disrupts(self) -> bool:
        """Whether the guidance has a disruption."""
        return isinstance(self.guider, DetailGuidance) and self.guider.disrupt is not None

    @property
    def disrupt(self) -> Disrupt:
        """The disruption, where the guidance has one."""
        assert isinstance(self.guider, DetailGuidance) and self.guider.disrupt is not None
        return self.guider.disrupt

    def edit(self, call: Call) -> Callable[[Any], Any]:
        """The disruption of a block's output, as the block returns it."""
        return disrupting(self.disrupt, self.dit.block(self.disrupt.block).record, call, self.run)

    def fork(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward for everything."""
        rows = inputs["hidden_states"].shape[0]
        with forked(
            self.dit.transformer, self.dit.family, self.disrupt.block, rows, call.cond, self.edit(call.alone())
        ):
            grown = self.unguided(**inputs)[0]
        return grown[:rows], grown[rows:]

    def partial(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The disrupted block's clean output is kept, and a second forward starts from it."""
        # rows of other lengths were kept with the padding of the longest
        apart = self.apart(inputs) and not (self.dit.family.ragged and call.branch == "both")
        restart = Restart(self.dit.transformer, self.dit.family, self.disrupt.block)
        with restart.keeping(call.cond if apart else slice(None)):
            prediction = self.unguided(**copied(inputs))[0]
        with restart.starting(self.edit(call.alone() if apart else call)):
            return prediction, self.rerun(inputs, call, apart)

    def perturbed(self, guider: Perturbed, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The guider's own degraded prediction, by a second forward from its first perturbed block on."""
        restart = None
        first = guider.begins(self.dit, call)
        if first and self.way != "whole" and not self.why_whole(inputs):
            restart = Restart(self.dit.transformer, self.dit.family, first - 1)
        with restart.keeping(call.cond) if restart else nullcontext():
            prediction = self.unguided(**copied(inputs))[0]
        rows, alone = self.rows_of(inputs, call.cond), call.alone()
        with restart.starting() if restart else nullcontext():
            return prediction, guider.degraded(
                self.dit, rows, prediction[call.cond], alone, lambda inputs: self.again(inputs, alone)
            )

    def whole(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """Two forwards."""
        apart = self.apart(inputs)
        prediction = self.unguided(**copied(inputs))[0]
        edited = call.alone() if apart else call
        with attached(self.dit.transformer, self.dit.family, [self.disrupt], edited) as attachment:
            disrupted = self.rerun(inputs, call, apart)
        self.run.disrupted(call, attachment.changes[0].total())
        return prediction, disrupted

    def apart(self, inputs: dict[str, Any]) -> bool:
        """Whether the conditional rows may run alone: not if the user's own hooks may depend on the rows."""
        transformer, family = self.dit.transformer, self.dit.family
        foreign = own_processors(transformer, family) or foreign_hooks(transformer, family, below=True)
        return not foreign and not nested_rows(inputs)

    def rerun(self, inputs: dict[str, Any], call: Call, apart: bool) -> torch.Tensor:
        """The conditional rows of a second forward: alone, or among all rows."""
        if apart:
            return self.again(self.rows_of(inputs, call.cond), call.alone())
        return self.again(inputs, call)[call.cond]

    def again(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """A second forward as a separate call, which hooks on the transformer (edits' clocks, readers) see."""
        with active(self.dit.transformer).repeating(call), replaced(self.dit.transformer, "forward", self.unguided):
            return self.dit.transformer(**copied(inputs))[0]

    def rows_of(self, inputs: dict[str, Any], rows: slice) -> dict[str, Any]:
        """The transformer's inputs for some of its rows."""
        return rows_of(self.dit.family, inputs, rows)

    @property
    def alone(self) -> bool:
        """Whether nothing else acts on the blocks or reads them, which would expect the pipeline's own rows."""
        transformer, family = self.dit.transformer, self.dit.family
        free = not foreign_hooks(transformer, family) and not own_processors(transformer, family)
        return free and self.dit.tracer is None


def copied(inputs: dict[str, Any]) -> dict[str, Any]:
    """A copy of the inputs for one of two forwards: some forwards remove items from nested dictionaries."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in inputs.items()}
