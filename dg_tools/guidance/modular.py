"""Detail Guidance in a modular pipeline: one batch of inputs per pass, and the disruption armed for one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from dg_tools.families import bind, family_of
from dg_tools.forward.call import NOTHING, Call
from dg_tools.forward.compiled import compiled_parts, stepping
from dg_tools.forward.refusals import check_cache
from dg_tools.forward.replaced import replaced
from dg_tools.forward.restart import Restart, why_not
from dg_tools.guidance.base import Guidance
from dg_tools.guidance.report import Log, Report, log_of
from dg_tools.guidance.run import disrupting
from dg_tools.interventions import Disrupt, attached
from dg_tools.interventions.validation import check_blocks

logger = logging.getLogger("dg_tools")


class ModularGuidance(Guidance):
    """The methods of `DetailGuidance` that a modular pipeline calls; `passes` says which passes a step has."""

    disrupt: Disrupt | None = None
    _log: Log | None = None  # of the run that goes, or of the last one
    _acted = False  # whether this step's disrupted pass ran
    _disarm: Callable[[], None] | None = None
    _restart: Restart | None = None  # from the disrupted block's output in this step's conditional pass

    # -- what was done ------------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report | None:
        """The report on the modular pipeline's last run, finished or not; None before the first."""
        if self._log is None:
            return None
        return self._log.report(finished=self._step == self._log.steps - 1 and self._count_prepared == 0)

    def set_state(self, step: int, num_inference_steps: int, timestep: torch.Tensor) -> None:
        """A step begins; the first one begins a run."""
        super().set_state(step, num_inference_steps, timestep)
        self._acted = False
        self._restart = None
        if step == 0 or self._log is None:
            self._log = log_of(self, num_inference_steps)

    def __call__(self, data: list[Any]) -> Any:
        """The guided prediction of a step.

        Raises:
            RuntimeError: the step should have been guided and its disrupted pass did not run; at the last step, where
                the guidance changed nothing in any.
        """
        if self._log is not None and self._step is not None:
            predictions = {getattr(batch, self._identifier_key): batch.noise_pred for batch in data}
            if self._acted:
                self._tell(self._log, self._step, predictions)
            self._log.check(self._step)
            if self._step == self._log.steps - 1:
                self._log.finish()
        guided = super().__call__(data)
        self._count_prepared = 0
        return guided

    def _tell(self, log: Log, step: int, predictions: dict[str, torch.Tensor]) -> None:
        """Tell the log of a step in which a disruption was on."""
        cond, sigma = predictions["pred_cond"], float(self._timestep) / 1000.0
        if not self.in_pass:
            degraded = predictions["pred_disrupted"]
            log.add(step, cond, degraded, self.push(cond, degraded), sigma)
        elif self.own_edit is not None and self.own_edit.rows == "uncond":
            uncond = predictions["pred_uncond"]
            log.add(step, cond, uncond, (self.guidance_scale - 1) * (cond - uncond), sigma)
        else:
            for prediction in predictions.values():
                log.acted(step, prediction)

    @property
    def _plan(self) -> list[str]:
        if self._step is None or self._num_inference_steps is None:
            return self.passes(0, 1)
        return self.passes(self._step, self._num_inference_steps)

    @property
    def is_conditional(self) -> bool:
        """Whether the pass being prepared is conditional on the prompt; the disrupted one is."""
        return self._plan[max(self._count_prepared - 1, 0)] != "pred_uncond"

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        """One batch of inputs for each pass of the plan; unconditional inputs for `pred_uncond` only.

        Raises:
            ValueError: classifier-free guidance without unconditional inputs.
        """
        plan = self._plan
        if "pred_uncond" in plan and not any(isinstance(value, tuple) for value in data.values()):
            raise ValueError(
                f"guidance_scale={self.guidance_scale} asks for classifier-free guidance, but the pipeline has no "
                'unconditional inputs: pass negative_prompt=""'
            )
        return [self._prepare_batch(data, int(name == "pred_uncond"), name) for name in plan]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        """As `prepare_inputs`, from a modular pipeline's block state."""
        return [
            self._prepare_batch_from_block_state(input_fields, data, int(name == "pred_uncond"), name)
            for name in self._plan
        ]

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        """Arm the disruption for the pass that is named `pred_disrupted`, and for that one forward only.

        The conditional forward before it stores the disrupted block's output, so that only the blocks after it run
        again. The forward itself takes everything off, even if it raises: modular pipelines do not clean up after an
        exception.

        Raises:
            ValueError, IndexError: before the first forward, for a step cache that is on, a window without a step, or a
                block that does not exist.
        """
        super().prepare_models(denoiser)
        self.cleanup_models(denoiser)
        if self._count_prepared == 1 and self._step == 0:
            self._check(denoiser)
        name = self._plan[self._count_prepared - 1]
        if self.in_pass:
            self._arm_own(denoiser, name)
            return
        if name == "pred_uncond" or "pred_disrupted" not in self._plan:
            return
        assert self.disrupt is not None
        family = family_of(denoiser)
        if family.rescaling and self._count_prepared == 1 and self._step == 0:
            logger.warning(family.rescaling)
            if self._log is not None:
                self._log.notes.append(family.rescaling)
        self._arm(denoiser, self.disrupt, name == "pred_disrupted")

    def _arm(self, denoiser: torch.nn.Module, disrupt: Disrupt, disrupted: bool) -> None:
        """Let the next forward be the disrupted one, or the conditional one, which stores a block's output for it."""
        family, forward = family_of(denoiser), denoiser.forward
        step, sigma = self._step, float(self._timestep) / 1000.0

        def once(*args: Any, **kwargs: Any) -> Any:
            self.cleanup_models(denoiser)
            inputs = bind(denoiser, args, kwargs)
            call = Call.at(sigma, step=step, image_tokens=family.image_tokens(denoiser, inputs["hidden_states"]))
            if disrupt.pictures != "all" or disrupt.grid:  # reading positions waits for the device
                call = replace(call, grid=family.picture_grid(denoiser, inputs))
            whole = (why_not(family, inputs) or disrupt.why_whole) is not None
            around: AbstractContextManager[None] = nullcontext()
            if disrupted:
                restart, self._restart = self._restart, None
                around = self._disrupting(denoiser, disrupt, call, inputs, None if whole else restart)
            elif not whole:
                self._restart = Restart(denoiser, family, disrupt.block)
                around = self._restart.keeping()
            with stepping(denoiser), around:
                output = forward(*args, **kwargs)
            self._acted = disrupted
            return output

        stack = ExitStack()
        stack.enter_context(replaced(denoiser, "forward", once))
        self._disarm = stack.close

    def _arm_own(self, denoiser: torch.nn.Module, name: str) -> None:
        """Let the next forward, which is one of CFG's, have the guidance's own edit on, where it acts in this one."""
        family, forward, edit = family_of(denoiser), denoiser.forward, self.own_edit
        step, steps = self._step, self._num_inference_steps
        call = Call.at(float(self._timestep) / 1000.0, step=step)
        if name == "pred_uncond":
            call = replace(call, branch="uncond", cond=NOTHING, uncond=slice(None))
        if edit is None or not edit.concerns(call) or not self.acts(step, steps):
            return

        def once(*args: Any, **kwargs: Any) -> Any:
            self.cleanup_models(denoiser)
            inputs = bind(denoiser, args, kwargs)
            grid = family.picture_grid(denoiser, inputs) if edit.pictures != "all" or edit.grid else None
            now = replace(call, grid=grid)
            with stepping(denoiser), attached(denoiser, family, [edit], now, checked=True) as attachment:
                attachment.begin(inputs)  # the denoiser's own call, and its pre-hooks, are past
                output = forward(*args, **kwargs)
            if self._log is not None:
                self._log.disrupted(now, attachment.changes[0].total())
            self._acted = True
            return output

        stack = ExitStack()
        stack.enter_context(replaced(denoiser, "forward", once))
        self._disarm = stack.close

    @contextmanager
    def _disrupting(
        self, denoiser: torch.nn.Module, disrupt: Disrupt, call: Call, inputs: dict[str, Any], restart: Restart | None
    ) -> Iterator[None]:
        """A forward inside is disrupted; it starts from the kept output, or runs whole where there is none."""
        family = family_of(denoiser)
        if restart is None or not restart.kept:
            with attached(denoiser, family, [disrupt], call) as attachment:
                attachment.begin(inputs)  # the denoiser's own call, and its pre-hooks, are past
                yield
            if self._log is not None:
                self._log.disrupted(call, attachment.changes[0].total())
            return
        record = [record for _, record, _ in family.blocks(denoiser)][disrupt.block]
        with restart.starting(disrupting(disrupt, record, call, self._log)):
            yield

    def _check(self, denoiser: torch.nn.Module) -> None:
        """Raise before the first forward for what this model cannot have."""
        if self._enabled:
            check_cache(denoiser)
            compiled_parts(denoiser)
        if self.in_pass:
            self.check_scale(self.guidance_scale)
        if self.disrupt is not None:
            self.check_window(self._num_inference_steps)
            check_blocks(self.disrupt, [name for name, _, _ in family_of(denoiser).blocks(denoiser)])

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        """Take an armed disruption off, used or not."""
        if self._disarm is not None:
            self._disarm()
            self._disarm = None
