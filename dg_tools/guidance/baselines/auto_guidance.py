"""Auto-guidance (Karras et al., arXiv 2406.02507): guide away from a worse model of the same kind.

The paper's worse model is smaller, or less trained, and sees the same prompt. It is given as `twin`. Where there is
none, the model's own weights with noise on them stand in for it; whether they err as such a model would is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dg_tools.forward.call import Call
from dg_tools.guidance.baselines.perturbed import Again, Perturbed
from dg_tools.models.dit import DiT


class AutoGuidance(Perturbed):
    """Auto-guidance: `AutoGuidance(3.0, 0.5, twin=early)` or `AutoGuidance(3.0, 0.5, noise=0.1)`; any family.

    The paper's formula worse + w' (c - worse) is c + w (c - worse) with w = w' - 1.

    Args:
        twin: another transformer of the same class, on the same device, with the same inputs (it may be smaller). Its
            block calls are counted; edits act on the model's own blocks only. It is not written with the settings.
        noise: without a twin, the size of the noise on every weight matrix, as a share of its own standard deviation.
        seed: of the noise. The noised weights are held beside the model's while the guidance lives.
        guidance_scale, weight, others: as in `Perturbed`.

    Raises:
        ValueError: noise that is not positive; a twin of another class, with other inputs, or the model itself.
    """

    short = "auto"
    layouts = None

    def __init__(
        self,
        guidance_scale: float | None = None,
        weight: float = 1.0,
        *,
        twin: torch.nn.Module | None = None,
        noise: float = 0.1,
        seed: int = 0,
        **others: Any,
    ) -> None:
        if not noise > 0:
            raise ValueError(f"noise={noise}: relative to the weights' standard deviation, more than 0")
        super().__init__(guidance_scale, weight, noise=noise, seed=seed, **others)
        self.twin, self.noise, self.seed = twin, noise, seed
        self.transformers = () if twin is None else (twin,)
        self._noised: tuple[list[Any], list[torch.Tensor]] | None = None

    def new(self, **changes: Any) -> AutoGuidance:
        """A copy with other settings, and the same twin."""
        return super().new(**{"twin": self.twin, **changes})

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `Perturbed`, and ValueError for a twin that is none."""
        super().check(dit, steps, height, width)
        if self.twin is None:
            return
        own = dit.transformer
        if self.twin is own:
            raise ValueError("the twin is the model itself: pass a worse one, such as an earlier checkpoint")
        if type(self.twin) is not type(own):
            raise ValueError(f"twin is a {type(self.twin).__name__}; another {type(own).__name__} is needed")
        for name in dit.family.input_sizes:
            ours, theirs = (getattr(t.config, name, None) for t in (own, self.twin))
            if ours != theirs:
                raise ValueError(f"the twin has {name}={theirs}, the model {ours}: they cannot take the same inputs")

    def worse(self, dit: DiT, rows: dict[str, Any], cond: torch.Tensor, call: Call, again: Again) -> torch.Tensor:
        """The twin's prediction, or the model's own with noise on its weights."""
        if self.twin is None:
            return super().worse(dit, rows, cond, call, again)
        with torch.no_grad():
            return self.twin(**rows)[0]

    @contextmanager
    def on(self, dit: DiT, rows: dict[str, Any], call: Call) -> Iterator[None]:
        """The noised weights are in the place of the model's; the same tensors are put back."""
        matrices = [p for p in dit.transformer.parameters() if p.ndim > 1]
        # other weights than the last time, or changed ones, are noised anew
        stamp = [(p.data_ptr(), 0 if p.is_inference() else p._version, p.dtype) for p in matrices]
        if self._noised is None or self._noised[0] != stamp:
            self._noised = stamp, noised(matrices, self.noise, self.seed)
        kept = [p.data for p in matrices]
        try:
            for parameter, value in zip(matrices, self._noised[1], strict=True):
                parameter.data = value
            yield
        finally:
            for parameter, value in zip(matrices, kept, strict=True):
                parameter.data = value


def noised(matrices: list[torch.nn.Parameter], size: float, seed: int) -> list[torch.Tensor]:
    """Copies plus normal noise of `size` times each one's standard deviation, drawn on the CPU, in order."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for parameter in matrices:
        noise = torch.randn(parameter.shape, generator=generator) * size * parameter.detach().float().std().cpu()
        made.append(parameter.detach() + noise.to(parameter))
    return made
