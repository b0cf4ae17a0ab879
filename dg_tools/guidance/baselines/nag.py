"""Normalized attention guidance (Chen et al., arXiv 2505.21179): a negative prompt without classifier-free guidance.

In every joint attention the image tokens attend to themselves and the prompt, Z, and to themselves and a negative
prompt, Z_n. The result is

    Z' = Z + phi (Z - Z_n),   Z' shrunk to at most tau |Z|,   alpha Z' + (1 - alpha) Z

with |Z| the sum of absolute values of a token over all heads. The text tokens of both prompts go on separately; the
image tokens are the same for both. The pooled text is the prompt's, as in the authors' SD3 pipeline (`nag_scale` there
is 1 + phi). They use it for models with distilled CFG or few steps, FLUX.1-schnell and dev (phi = 4, tau = 2.5, alpha =
0.25) and on SD3.5-Large-Turbo (alpha = 0.125), and on top of CFG.

Its price: a second row in the conditional pass, so that without CFG a step takes two forwards, with CFG three. (The
authors' code shares the image's part between both rows where it can; the numbers are the same.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch

from dg_tools.forward.call import NOTHING, Call
from dg_tools.forward.rows import rows_of
from dg_tools.guidance.baselines.attention import computed
from dg_tools.guidance.baselines.in_pass import Forward, InPass
from dg_tools.guidance.baselines.perturbed import Perturbed
from dg_tools.models.dit import DiT
from dg_tools.numbers import number
from dg_tools.onestep import first_call

TEXT = "encoder_hidden_states"
ABOUT_TEXT = ("height", "width", "max_sequence_length", "clip_skip")  # of the pipeline's call


class NAG(InPass):
    """Normalized attention guidance: `NAG(phi=4.0, negative_prompt="blurry")`; SD3, SD3.5 and FLUX.1.

    Args:
        phi: how far attention goes away from the negative prompt, 0 and up; 0 is off.
        tau: largest growth of a token's |Z'| over |Z|, more than 0.
        alpha: share of the guided attention, 0 to 1.
        negative_prompt: the prompt to steer away from; empty by default.
        guidance_scale, start, stop, enabled: as in `InPass`. CFG's own negative prompt is the call's.

    Raises:
        ValueError: a value out of range; a family of another layout, or a text of another length, when they are known.
    """

    short = "NAG"
    layouts = Perturbed.layouts
    _text: torch.Tensor | None = None  # the negative prompt's embedding, (1, tokens, channels), for one model

    def __init__(
        self,
        guidance_scale: float | None = None,
        *,
        phi: float = 4.0,
        tau: float = 2.5,
        alpha: float = 0.25,
        negative_prompt: str = "",
        **others: Any,
    ) -> None:
        if not number(phi, "phi") >= 0 or not number(tau, "tau") > 0 or not 0 <= number(alpha, "alpha") <= 1:
            raise ValueError(
                f"phi={phi}, tau={tau}, alpha={alpha}; phi is at least 0, tau more than 0, and alpha in 0..1"
            )
        own: dict[str, Any] = {"phi": phi, "tau": tau, "alpha": alpha, "negative_prompt": negative_prompt}
        super().__init__(guidance_scale, **own, **others)
        self.phi = phi
        self.tau = tau
        self.alpha = alpha
        self.negative_prompt = negative_prompt

    @property
    def pushes(self) -> bool:
        """Whether phi and alpha are above 0."""
        return bool(self.phi and self.alpha)

    @property
    def named(self) -> str:
        """`NAG 4`."""
        return f"{self.short} {self.phi:g}"

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """As in `InPass`, and ValueError for a family of another layout."""
        if self.layouts is not None and dit.family.name not in self.layouts:
            raise ValueError(
                f"NAG supports the families {', '.join(self.layouts)}; this model is of family {dit.family.name!r}"
            )
        super().check(dit, steps, height, width)

    def resolved(self, dit: DiT, **kwargs: Any) -> Self:
        """This guidance with the embedding of its negative prompt, from the model's own pipeline."""
        if self._text is not None:
            return self
        self.check(dit)
        made = super().resolved(dit, **kwargs).new()
        call = {name: kwargs[name] for name in ABOUT_TEXT if kwargs.get(name) is not None}
        with torch.no_grad():
            made._text = first_call(dit, [self.negative_prompt], seed=0, steps=1, **call)[TEXT]
        return made

    def predicted(self, dit: DiT, inputs: dict[str, Any], call: Call, own: Forward, again: Forward) -> torch.Tensor:
        """The prediction with guided attention in the conditional rows."""
        if call.branch == "uncond":
            return own(inputs, call)
        total = inputs["hidden_states"].shape[0]
        rows = list(range(total)[call.cond])
        doubled = rows_of(dit.family, inputs, [*rows, *rows])
        doubled[TEXT] = torch.cat([inputs[TEXT][call.cond], self._negative(inputs[TEXT], len(rows))])
        with computed(dit, range(len(dit.blocks)), self._attention(dit, call)):
            guided = again(doubled, call.alone())[: len(rows)]
        if call.branch != "both":
            return guided
        other = replace(call, branch="uncond", cond=NOTHING, uncond=slice(None))
        prediction = guided.new_empty(total, *guided.shape[1:])
        prediction[call.cond] = guided
        prediction[call.uncond] = again(rows_of(dit.family, inputs, call.uncond), other)
        return prediction

    def _negative(self, text: torch.Tensor, rows: int) -> torch.Tensor:
        assert self._text is not None
        if self._text.shape[1:] != text.shape[1:]:
            raise ValueError(
                f"the negative prompt has {self._text.shape[1]} text tokens, the prompt {text.shape[1]}: leave "
                "max_sequence_length at the pipeline's own, or use dg.generate(..., max_sequence_length=...)"
            )
        return self._text.to(text).expand(rows, -1, -1)

    def _attention(self, dit: DiT, call: Call) -> Callable[..., torch.Tensor]:
        """Torch's product, with guided image tokens where text is attended to."""
        assert call.image_tokens is not None
        image_tokens: int = call.image_tokens

        def product(attend: Callable[..., torch.Tensor], inputs: dict[str, Any], block: int) -> torch.Tensor:
            output = attend(**inputs)
            if output.shape[-2] == image_tokens:  # SD3.5-medium's attention of the image alone
                return output
            image = dit.family.image_rows(output.shape[-2], image_tokens)
            output = output.clone()
            guided = self.guided(*output[..., image, :].chunk(2))
            output[..., image, :] = torch.cat([guided, guided])
            return output

        return product

    def guided(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """Guided attention outputs of the prompt and the negative one, (rows, heads, tokens, channels) each."""
        own, other = positive.float(), negative.float()
        far = own + self.phi * (own - other)
        size, before = (x.abs().sum((1, 3), keepdim=True).clamp_min(1e-12) for x in (far, own))
        bounded = far * (self.tau * before / size).clamp(max=1)
        return (self.alpha * bounded + (1 - self.alpha) * own).to(positive.dtype)
