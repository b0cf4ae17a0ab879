"""One run of a live model for the activation explorer: statistics everywhere, raw hidden states while they fit."""

from __future__ import annotations

import re

import numpy as np
import torch

from dg_tools.activations import Activations, attention, capture
from dg_tools.guidance.cfg import CFG
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode, spatial
from dg_tools.models.text_tokens import text_tokens, tokens_of_word
from dg_tools.onestep import first_call
from dg_tools.widgets.run_fields import RunSettings
from dg_tools.widgets.watch import Tick, across, watched
from dg_tools.widgets.word_maps import with_attention

CAP = 2**28  # bytes of raw hidden states


def affordable(dit: DiT, steps: int, tokens: int, block: int, cap: int = CAP) -> tuple[list[int], list[int] | None]:
    """Blocks and steps whose raw hidden states fit under the cap: all; else one block; else that at the middle step."""
    one = tokens * dit.width * 4
    if one * steps * len(dit.blocks) <= cap:
        return list(range(len(dit.blocks))), None
    if one * steps <= cap:
        return [block], None
    return ([block], [steps // 2]) if one <= cap else ([], [])


def capture_run(
    dit: DiT, settings: RunSettings, block: int, tick: Tick, cap: int = CAP, words: bool = False
) -> Activations:
    """Capture one prompt and seed, with the expected picture at every step as variable `step_picture`.

    With `words` the same run is made once more before it, for the attention to each word of the prompt.
    """
    height, width = settings.height, settings.width
    raw, raw_steps = affordable(dit, settings.steps, int(np.prod(dit.grid(height, width))), block, cap)
    estimates: dict[int, torch.Tensor] = {}
    guidance = CFG(settings.scale) if settings.scale > 1 else None
    found = None
    if words:
        tick = across(tick, 2)
        asked = prompt_words(dit, settings.prompt, height, width)
        with watched(dit, tick):
            found = attention(
                dit, settings.prompt, **{"seeds" if k == "seed" else k: v for k, v in settings.call.items()},
                guidance=guidance, words=asked, progress=False,
            )  # fmt: skip
    with watched(dit, tick, estimates):
        acts = capture(
            dit,
            [settings.prompt],
            seeds=[settings.seed],
            steps=settings.steps,
            height=height,
            width=width,
            guidance=guidance,
            raw=raw,
            raw_steps=raw_steps if raw else None,
            cap=cap,
            progress=False,
        )
    pictures = [decode(dit, spatial(dit, estimates[i], height, width), output_type="np")[0] for i in sorted(estimates)]
    as_bytes = (np.stack(pictures) * 255).round().astype(np.uint8)[None, None]
    acts.data["step_picture"] = (("prompt", "seed", "step", "y", "x", "rgb"), as_bytes)
    return acts if found is None else with_attention(acts, found)


def prompt_words(dit: DiT, prompt: str, height: int, width: int) -> list[str]:
    """The words of a prompt that its text tokens have, each once.

    Raises:
        ValueError: none, or a family whose record does not say which text token is which word.
    """
    inputs = first_call(dit, [prompt], seed=0, steps=1, height=height, width=width)
    table = text_tokens(dit, prompt, inputs["encoder_hidden_states"].shape[1])
    words = []
    for word in dict.fromkeys(re.findall(r"\w[\w'-]*", prompt)):
        try:
            tokens_of_word(dit, table, word)
        except ValueError:  # behind the end of a prompt that is cut off
            continue
        words.append(word)
    if not words:
        raise ValueError(f'no word of {prompt!r} is among its text tokens: untick "words\' attention"')
    return words
