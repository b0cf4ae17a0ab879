"""Auto-guidance (Karras et al., arXiv 2406.02507): guide away from a weak model of the same kind.

The paper's weak model is smaller, or less trained, and sees the same prompt. It is passed as `weak_model`. Without one,
a copy of the model's own weights with noise replaces it; whether it errs as such a model would is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.forward.compiled import compiled_parts, stepping
from dg_tools.guidance.baselines.perturbed import Again, Perturbed
from dg_tools.kinds import kind_of
from dg_tools.models.dit import DiT
from dg_tools.models.weights import check_noise


class AutoGuidance(Perturbed):
    """Auto-guidance: `AutoGuidance(3.0, 0.5, weak_model=early)` or `AutoGuidance(3.0, 0.5, noise=0.1)`; any family.

    The paper's formula weak + w' (c - weak) is c + w (c - weak) with w = w' - 1.

    Args:
        weak_model: another transformer of the same class, on the same device, with the same inputs (it may be smaller).
            Its block calls are counted; edits act on the model's own blocks only. It is not saved with the settings.
        noise: without a weak model, the size of the noise on every weight matrix, as a share of the matrix's standard
            deviation.
        seed: of the noise. The noised weights are held in memory beside the model's own.
        guidance_scale, weight, others: as in `Perturbed`.

    Raises:
        ValueError: noise that is not positive; a weak model of another class, with other inputs, or the model itself.
    """

    short = "auto"
    layouts = None

    def __init__(
        self,
        guidance_scale: float | None = None,
        weight: float = 1.0,
        *,
        weak_model: torch.nn.Module | None = None,
        noise: float = 0.1,
        seed: int = 0,
        **others: Any,
    ) -> None:
        if not noise > 0:
            raise ValueError(
                f"noise={noise}; it is relative to the weights' standard deviation, and must be more than 0"
            )
        super().__init__(guidance_scale, weight, noise=noise, seed=seed, **others)
        self.weak_model = weak_model
        self.noise = noise
        self.seed = seed
        self._noised: tuple[list[Any], list[torch.Tensor]] | None = None

    @property
    def transformers(self) -> Sequence[torch.nn.Module]:
        """The weak model, whose calls are counted."""
        return () if self.weak_model is None else (self.weak_model,)

    def new(self, **changes: Any) -> AutoGuidance:
        """A copy with other settings, and the same weak model."""
        return super().new(**{"weak_model": self.weak_model, **changes})

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `Perturbed`, and ValueError for a weak model that does not fit, or weights that take no noise."""
        super().check(dit, steps, height, width)
        if self.weak_model is None:
            check_noise(dit.transformer)
            return
        own = dit.transformer
        if not isinstance(self.weak_model, torch.nn.Module):
            raise TypeError(
                f"weak_model is {kind_of(self.weak_model)}; a {type(own).__name__} is needed, such as "
                "the .transformer of a loaded earlier checkpoint"
            )
        compiled_parts(self.weak_model)  # compiled as a whole: refused
        if self.weak_model is own:
            raise ValueError("weak_model is the model itself: pass a weaker one, such as an earlier checkpoint")
        if type(self.weak_model) is not type(own):
            weak = type(self.weak_model).__name__
            raise ValueError(f"weak_model is a {weak}; another {type(own).__name__} is needed")
        for name in dit.family.input_sizes:
            ours, theirs = (getattr(t.config, name, None) for t in (own, self.weak_model))
            if ours != theirs:
                raise ValueError(f"weak_model has {name}={theirs}, the model {ours}: they cannot take the same inputs")

    def degraded(self, dit: DiT, rows: dict[str, Any], cond: torch.Tensor, call: Call, again: Again) -> torch.Tensor:
        """The weak model's prediction, or the model's own with noise on its weights."""
        if self.weak_model is None:
            return super().degraded(dit, rows, cond, call, again)
        with torch.no_grad(), stepping(self.weak_model):
            return self.weak_model(**rows)[0]

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """The noised weights replace the model's; the same tensors are put back."""
        matrices = [p for p in dit.transformer.parameters() if p.ndim > 1]
        # weights that are others than the last time, or have changed, are noised again
        now = [(p.data_ptr(), 0 if p.is_inference() else p._version, p.dtype) for p in matrices]
        stamp = [self.noise, self.seed, now]
        if self._noised is None or self._noised[0] != stamp:
            self._noised = (stamp, noised(matrices, self.noise, self.seed))
        own = [p.data for p in matrices]
        try:
            for parameter, value in zip(matrices, self._noised[1], strict=True):
                parameter.data = value
            yield
        finally:
            for parameter, value in zip(matrices, own, strict=True):
                parameter.data = value


def noised(matrices: list[torch.nn.Parameter], size: float, seed: int) -> list[torch.Tensor]:
    """Copies plus normal noise of `size` times each one's standard deviation, drawn on the CPU, in order."""
    generator = torch.Generator().manual_seed(seed)
    copies = []
    for parameter in matrices:
        noise = torch.randn(parameter.shape, generator=generator) * size * parameter.detach().float().std().cpu()
        copies.append(parameter.detach() + noise.to(parameter))
    return copies
