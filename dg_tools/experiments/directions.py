"""The direction of each guidance, and its part along CFG's direction.

Every guidance here is the same formula with another degraded prediction (the paper's is the disrupted one):

    v = c  or  u + s (c - u),   plus   w (c - degraded)

    degraded = d       the massive channels disrupted: Detail Guidance
    degraded = d'      a matched control disrupted instead
    degraded = blur    the picture that c predicts, blurred: no second forward, unsharp masking of x0
    degraded = twin    of a weak model, the same transformer with noise on its weights or an earlier checkpoint:
                       auto-guidance (`twin` is its name in saved tables)

The direction c - degraded can be split into the part along c - u, which CFG has already, and the part across it. Its
size can be set, for each picture and step, to that of w (c - d), so that only the direction differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.experiments.sampling_step import SamplingStep
from dg_tools.guidance.baselines.auto_guidance import noised
from dg_tools.guidance.baselines.one_pass import OnePass
from dg_tools.guidance.baselines.smooth import gaussian_blur
from dg_tools.models.weights import check_noise

Part = Literal["whole", "along", "across"]
Window = tuple[float, float]
ALWAYS: Window = (0.0, 1.0)
BLUR, WEAK = "blur", "twin"  # degraded predictions by their names in saved tables


@dataclass(frozen=True)
class GuidanceRule:
    """A rule of the sampling loop: CFG, plus w times one direction; or CFG under a guidance in its own passes.

    Attributes:
        name: in words, unique within an experiment.
        scale: the usual CFG scale s; 1 is off.
        weight: the paper's w; 0 is off.
        degraded: name of the degraded prediction among the loop's sources, or `blur`.
        part: of c - degraded: the `whole`, its part `along` c - u, or the rest, `across` it.
        norm_of: another prediction's name: w is then set for each picture and step so that the term has the norm of
            `weight` (c - norm_of).
        window: of the term with w, as fractions of the steps.
        cfg_window: of CFG.
        blur_sigma: of `blur`, in latent pixels.
        one_pass: `Gain` or `DetailDaemon`, within `window`.
    """

    name: str
    scale: float = 1.0
    weight: float = 0.0
    degraded: str = "d"
    part: Part = "whole"
    norm_of: str | None = None
    window: Window = ALWAYS
    cfg_window: Window = ALWAYS
    blur_sigma: float = 1.0
    one_pass: OnePass | None = None

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"{self.name}: scale={self.scale}; the usual CFG scale s is at least 1 (1 = off)")
        if self.weight < 0:
            raise ValueError(f"{self.name}: weight={self.weight}; w is at least 0 (0 = off)")
        if self.blur_sigma <= 0:
            raise ValueError(f"{self.name}: blur_sigma={self.blur_sigma}; a width in latent pixels, more than 0")
        for what in ("window", "cfg_window"):
            start, stop = getattr(self, what)
            if not 0 <= start < stop <= 1:
                raise ValueError(f"{self.name}: {what} [{start}, {stop}) is empty or outside 0..1")

    def __call__(self, at: SamplingStep) -> torch.Tensor:
        """The velocity of a step."""
        guider = self.one_pass
        if guider is not None and inside(self.window, at.step, at.steps) and guider.acts(at.step, at.steps):
            at = at.under(guider, self.scale)
        cond = at["c"]
        velocity = cond
        if self.scale > 1 and inside(self.cfg_window, at.step, at.steps):
            velocity = at["u"] + self.scale * (cond - at["u"])
        if self.weight and inside(self.window, at.step, at.steps):
            velocity = velocity + self.term(at)
        return velocity

    def passes(self, step: int, steps: int) -> list[str]:
        """Names of the forwards that step `step` of `steps` needs, those of measuring the norm included."""
        names = ["c"]
        if self.scale > 1 and inside(self.cfg_window, step, steps):
            names.append("u")
        if self.weight and inside(self.window, step, steps):
            names += [self.degraded, *(["u"] if self.part != "whole" else []), *filter(None, [self.norm_of])]
        return [n for n in dict.fromkeys(names) if n != BLUR]

    def term(self, at: SamplingStep) -> torch.Tensor:
        """What is added for w, (N, C, h, w)."""
        difference = direction(at, self.degraded, self.blur_sigma)
        if self.part != "whole":
            along = projection(difference, at["c"] - at["u"])
            difference = along if self.part == "along" else difference - along
        if self.norm_of is None:
            return self.weight * difference
        target = self.weight * norms(direction(at, self.norm_of, self.blur_sigma))
        size = norms(difference)
        factor = torch.where(size > 0, target / size.clamp_min(torch.finfo(size.dtype).tiny), torch.zeros_like(size))
        return factor[:, None, None, None].to(difference.dtype) * difference


def inside(window: Window, step: int, steps: int) -> bool:
    """Whether a step lies in a window of fractions of the steps, as guiders count it."""
    return window[0] * steps <= step < window[1] * steps


def direction(at: SamplingStep, degraded: str, blur_sigma: float = 1.0) -> torch.Tensor:
    """C - degraded, (N, C, h, w); for `u` the direction of CFG."""
    return at["c"] - (blurred(at, blur_sigma) if degraded == BLUR else at[degraded])


def blurred(at: SamplingStep, sigma: float) -> torch.Tensor:
    """The velocity of the conditional prediction whose x0 is blurred, in latents; c minus it grows as 1 / sigma."""
    return (at.z - gaussian_blur(at.x0(at["c"]), sigma)) / at.sigma


def inner(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Inner product of each picture's direction, (N,)."""
    return (x.float() * y.float()).flatten(1).sum(1)


def norms(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each picture's direction, (N,)."""
    return x.float().flatten(1).norm(dim=1)


def projection(x: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """The part of each picture's x along `onto`; zero where that is zero."""
    length = inner(onto, onto)
    share = torch.where(length > 0, inner(x, onto) / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
    return share[:, None, None, None].to(x.dtype) * onto


def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cosine between each picture's directions, (N,); NaN where one is zero."""
    return inner(x, y) / (norms(x) * norms(y)).masked_fill((norms(x) == 0) | (norms(y) == 0), torch.nan)


def noised_copy(transformer: Any, size: float, seed: int = 0) -> Any:
    """A weak model for auto-guidance: every weight matrix plus normal noise of `size` times its own spread.

    Karras et al. (arXiv 2406.02507) guide away from a smaller or less trained model. This copy replaces it where there
    is none; whether it errs as such a model would is not known.

    Raises:
        ValueError: a size that is not positive; weights that are quantised, offloaded in parts or with LoRA.
    """
    if size <= 0:
        raise ValueError(f"size={size}; noise is relative to the weights' standard deviation, and must be more than 0")
    check_noise(transformer, copied=True)
    copy = type(transformer).from_config(transformer.config)  # not a deep copy: that would take hooks along
    copy.load_state_dict(transformer.state_dict())
    first = next(transformer.parameters())
    torch.nn.Module.to(copy, first.device, first.dtype).eval().requires_grad_(False)
    matrices = [p for p in copy.parameters() if p.ndim > 1]
    for parameter, value in zip(matrices, noised(matrices, size, seed), strict=True):
        parameter.copy_(value)
    return copy
