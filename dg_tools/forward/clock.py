"""Which denoising step, and which half of classifier-free guidance, is this call of the transformer?

Both come from the pipeline's own state. Timesteps are not compared, because one that was rounded to bfloat16 differs
from the scheduler's. The step is the scheduler's own index; the branch comes from the name that the pipeline gives it
(diffusers' `cache_context`), or from the order of the calls within a step (`cfg_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.forward.active import active
from dg_tools.forward.call import NOTHING, Call
from dg_tools.forward.caller import Caller, any_pipeline, caller_of
from dg_tools.forward.cfg_rows import CfgRows
from dg_tools.forward.compiled import check_stepped
from dg_tools.forward.replaced import replaced
from dg_tools.forward.stepping import first_of, index_of, replaced_step


class Clock:
    """Tells the step and branch of each call, for the sampling runs of a pipeline and of others with the same
    transformer.

    A context manager: inside, the scheduler's steps are counted and the names of the pipeline's calls are heard; both
    are put back at the end. Read outside of it, a clock has the scheduler's own index and the order of the calls. A new
    list of timesteps on the scheduler begins a new run.

    Args:
        pipeline: a classic pipeline.
        family: the record of its transformer.
        guided: whether the runs have classifier-free guidance; None: the pipeline is asked at each call.

    Attributes:
        closing: whether the last call that was read completes its step.
    """

    def __init__(self, pipeline: Any, family: Family, guided: bool | None = None) -> None:
        self.pipeline = pipeline
        self.family = family
        self.guided = guided
        self.transformer: torch.nn.Module = pipeline.transformer
        self.caller: Caller | None = None  # the pipeline call that the last read call belongs to
        self.name: str | None = None  # what the pipeline calls the pass that is running
        self.runs = 0  # how many runs were seen
        self.before_step: list[Callable[[int, int], None]] = []  # called with (step, steps) before a scheduler's step
        self.after_step: list[Callable[[int, int], None]] = []  # and after it
        self.closing = False
        self._stack = ExitStack()
        self._context: Any = nullcontext  # the transformer's own `cache_context`
        self._open = False
        self._schedulers: list[Any] = []
        self._timesteps: Any = None
        self._levels: list[float] = []  # the same as numbers, and the noise level of each
        self._sigmas: list[float] = []
        self._made = 0  # scheduler steps of this run
        self._first: int | None = None  # the scheduler's index at the run's first step
        self._step = -1
        self._rows = CfgRows(family)
        self._positions: Any = None  # of the image tokens, as they were read last
        self._grid: tuple[int, int] | None = None

    def __enter__(self) -> Clock:
        self._stack = ExitStack()
        self._schedulers = []
        self._open = True
        self._count(self.pipeline.scheduler)
        if hasattr(self.transformer, "cache_context"):
            self._context = self.transformer.cache_context
            self._stack.enter_context(replaced(self.transformer, "cache_context", self._named))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open = False
        self._stack.close()
        state = active(self.transformer)
        state.stated = None
        state.parts = None

    def _count(self, scheduler: Any) -> None:
        """Count the steps of a scheduler, once, while the context is open."""
        if not self._open or any(scheduler is known for known in self._schedulers):
            return

        def around(step: Callable[..., Any]) -> Callable[..., Any]:
            def stepping(*args: Any, **kwargs: Any) -> Any:
                if scheduler.timesteps is not self._timesteps and not self._unread(scheduler):
                    return step(*args, **kwargs)
                now, _, steps = self.position(scheduler)
                for function in self.before_step:
                    function(now, steps)
                output = step(*args, **kwargs)
                self._made += 1
                for function in self.after_step:
                    function(now, steps)
                return output

            return stepping

        self._schedulers.append(scheduler)
        self._stack.enter_context(replaced_step(scheduler, around))

    @contextmanager
    def _named(self, name: str, **kwargs: Any) -> Iterator[None]:
        """Replaces the transformer's `cache_context`, which keeps the name only where a cache is on."""
        self.name = name
        try:
            with self._context(name, **kwargs):
                yield
        finally:
            self.name = None

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, inputs: dict[str, Any]) -> Call:
        """The call that these keyword inputs of the transformer belong to.

        Raises:
            RuntimeError: the call comes from your own loop, which does not state its steps.
        """
        state = active(self.transformer)
        self.caller = caller = None if state.rerun is not None else caller_of(self.transformer)
        if state.rerun is not None:
            return state.rerun
        rows = inputs["hidden_states"].shape[0]
        tokens = self.family.image_tokens(self.transformer, inputs["hidden_states"])
        if caller is not None and caller.aside:
            given = self._given(inputs)
            return Call(None, given, given / 1000.0, "other", slice(0, rows), NOTHING, tokens)
        scheduler = (self.pipeline if caller is None else caller.pipeline).scheduler
        self._count(scheduler)
        if scheduler.timesteps is not self._timesteps:
            self._begin(scheduler)
        step, index, steps = self.position(scheduler)
        if state.stated is not None:
            step, steps = state.stated
        elif caller is None:
            self._check_own_loop(scheduler, step, steps)
        if step != self._step:
            self._step = step
            self._rows.begin()
        guided = self._guided(caller)
        branch, cond, uncond = self._rows.read(rows, guided, self.name)
        self.closing = branch == ("uncond" if guided and self.family.rows == "sequential" else branch)
        if state.stated is None:
            timestep = self._levels[index]
            sigma = self._sigma(scheduler, index, timestep)
        else:
            timestep = self._given(inputs)
            sigma = timestep / 1000.0
        frames = self.family.frames(self.transformer, inputs)
        return Call(step, timestep, sigma, branch, cond, uncond, tokens, steps, self._grid_of(inputs), frames)

    def _grid_of(self, inputs: dict[str, Any]) -> tuple[int, int] | None:
        """The picture's grid of tokens; positions, where it is computed from them, are read once."""
        positions = inputs.get(self.family.positions)
        if positions is None:
            positions = inputs.get(self.family.shapes)
        if positions is None or positions is not self._positions:
            self._positions = positions
            self._grid = self.family.picture_grid(self.transformer, inputs)
        return self._grid

    def _begin(self, scheduler: Any) -> None:
        """A new list of timesteps: a new run."""
        self._timesteps = scheduler.timesteps
        self._levels = scheduler.timesteps.tolist()  # once a run: reading a value waits for the device
        self._sigmas = [] if self.family.diffusion else scheduler.sigmas.tolist()
        check_stepped(self.transformer)
        active(self.transformer).parts = None
        self.runs += 1
        self._made = 0
        self._first = None
        self._step = -1

    def _unread(self, scheduler: Any) -> bool:
        """Whether a run of this transformer makes its first step and no call of it was read.

        The run is a pipeline's call or your own loop. Another pipeline, with a transformer of its own, may
        share the scheduler: its steps are not counted.
        """
        if not self.before_step:
            return False
        caller = caller_of(self.transformer)
        if caller is None:
            unread = scheduler is self.pipeline.scheduler and not any_pipeline()
        else:
            unread = caller.pipeline.scheduler is scheduler and not caller.aside
        if unread:
            self._begin(scheduler)
        return unread

    def position(self, scheduler: Any) -> tuple[int, int, int]:
        """The step counted from the run's first one, its index in the scheduler's list, and how many steps run."""
        index = index_of(scheduler, self._made)
        if self._first is None:
            self._first = first_of(scheduler, self._made)
        return index - self._first, min(index, len(scheduler.timesteps) - 1), len(scheduler.timesteps) - self._first

    def _check_own_loop(self, scheduler: Any, step: int, steps: int) -> None:
        """Raise where no pipeline is running and the scheduler is not stepped: every call would be its first step."""
        unset = getattr(scheduler, "num_inference_steps", 0) is None
        again = step == self._step and self._made == 0 and self._rows.calls > (self.family.rows == "sequential")
        if unset or step >= steps or again:
            raise RuntimeError(
                "the transformer was called outside of its pipeline, and the pipeline's scheduler does not say which "
                "step this is: call dit.step(i, n) before each step of your own loop"
            )

    def _sigma(self, scheduler: Any, index: int, timestep: float) -> float:
        """The noise level: the share of noise in z_t = sqrt(1 - sigma^2) x + sigma noise of a diffusion."""
        if self.family.diffusion:
            alphas = scheduler.alphas_cumprod
            return (1 - alphas[min(max(round(timestep), 0), len(alphas) - 1)]).sqrt().item()
        return self._sigmas[index]

    def _given(self, inputs: dict[str, Any]) -> float:
        """The timestep passed to a call, 0..1000."""
        told = inputs["timestep"].detach().flatten()[0].double().item()
        return (told - self.family.timestep_offset) * 1000.0 / self.family.timestep_scale

    def _guided(self, caller: Caller | None) -> bool:
        if self.guided is not None:
            return self.guided
        return caller is not None and caller.scale(self.family) > 1
