"""On which channels, at which block, on which prompts? Chosen on one split of the prompts, tested on the other.

Measuring an effect on the prompts used to detect its channels overestimates it. So the prompts are split once, by a
seed: some to detect on, the rest to test on, and an experiment sees the second part only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dg_tools.activations import capture
from dg_tools.datasets.examples import Items, as_items, prompt_of, prompts_of, say_shared
from dg_tools.guidance.auto import default_profile
from dg_tools.interventions import Disrupt
from dg_tools.kinds import counted
from dg_tools.massive import Massive, find_massive
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import profile_words
from dg_tools.models.provenance import provenance
from dg_tools.onestep import check_velocity

DETECTION_STEPS = 20


@dataclass(frozen=True)
class Subject:
    """The channels, block and prompts of an experiment.

    Attributes:
        channels: massive channels.
        block: index of the block at whose output they are disrupted.
        test: what the experiment measures on (prompts, or references with their pictures), none of it used to detect.
        detection: what the channels were detected on; empty where they were given.
        how: where channels and block come from, in words.
        model: its provenance.
        onset: first block where each channel is massive, on the detection prompts; empty where channels were given.
        massive: the detection's `Massive`, for controls matched in variance; None where channels were given.
        disruption: how a weak model is made of the model: as its profile says, where neither channels nor block were
            given; else those of the channels that are massive at the block, zeroed.
    """

    channels: tuple[int, ...]
    block: int
    test: tuple[Any, ...]
    detection: tuple[Any, ...] = ()
    how: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    onset: dict[int, int] = field(default_factory=dict)
    massive: Massive | None = field(default=None, repr=False, compare=False)
    disruption: Disrupt = field(kw_only=True)

    @property
    def zeroed(self) -> Disrupt:
        """The same channels at the same block, zeroed, as in the paper."""
        return Disrupt(self.disruption.channels, self.disruption.blocks)

    def settings(self, **more: Any) -> dict[str, Any]:
        """As plain JSON, with what the experiment adds."""
        return {
            "channels": list(self.channels),
            "block": self.block,
            "how": self.how,
            "test": prompts_of(self.test),
            "detection": prompts_of(self.detection),
            "provenance": self.model,
            **more,
        }


def choose(
    dit: DiT,
    prompts: Items,
    seeds: Sequence[int] = (0,),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    steps: int = DETECTION_STEPS,
    detect: float = 0.25,
    split_seed: int = 0,
    least: int = 2,
    progress: bool = True,
    **kwargs: Any,
) -> Subject:
    """Split the prompts, and find channels and block on the smaller part.

    Args:
        dit: any DiT.
        prompts: strings, `Reference`s, (prompt, picture) pairs or `Example`s; the log names those that share a prompt.
        seeds: noise seeds of the detection run.
        channels: given channels; no detection, all prompts are for the test.
        block: given block; None: the one of the default profile (`guidance.auto.default_profile`), else the middle one.
        steps: of the detection run.
        detect: share of the prompts to detect on, at least one.
        split_seed: of the split.
        least: prompts that must remain for the test: an interval needs two.
        **kwargs: passed to the pipeline's call.

    Raises:
        ValueError: a family that predicts no velocity, too few prompts, no seeds, no massive channel on the detection
            prompts (name channels then), or none at the block.
        IndexError: channels or a block that this model does not have.
    """
    check_velocity(dit)
    prompts, seeds = as_items(prompts), list(seeds)
    say_shared(prompts)
    names = list(dict.fromkeys(prompts_of(prompts)))
    if not prompts:
        raise ValueError("an empty list of prompts: pass at least three (one to detect on, two to test on)")
    if not seeds:
        raise ValueError("an empty list of seeds: pass at least one")
    profile = default_profile(dit) if channels is None and block is None else None
    if block is None:
        block, where = default_block(dit)
    else:
        where = "block: given"
    dit.block(block)
    if channels is not None:
        check_channels(dit, channels)
        detection, test, what, count = [], prompts, "channels: given", 0
    else:
        order = np.random.default_rng(split_seed).permutation(len(names))
        count = max(1, round(detect * len(names)))
        chosen = {names[i] for i in order[:count]}  # with all pictures of a prompt on one side
        detection = [x for x in prompts if prompt_of(x) in chosen]
        test = [x for x in prompts if prompt_of(x) not in chosen]
    if len(names) - count < least:
        raise ValueError(
            f"{len(names) - count} prompt(s) are left for the test ({len(names)} given, {count} to detect on); "
            f"an interval over prompts needs at least {least}: pass more prompts, or channels="
        )
    onset: dict[int, int] = {}
    massive: Massive | None = None
    if channels is None:
        words = [name for name in names if name in chosen]
        acts = capture(dit, words, seeds=seeds, steps=steps, progress=progress, **kwargs)
        massive = find_massive(acts)
        channels, onset = massive.channels, massive.onset
        what = f"channels: detected on {counted(len(detection), 'other prompt')} ({massive.rule})"
        if not channels:
            raise ValueError(
                f"no massive channel on {counted(len(detection), 'prompt')} ({massive.rule}): pass channels= to "
                "say which you mean"
            )
    numbers, how = tuple(int(c) for c in channels), f"{what}; {where}"
    disruption = disruption_of(profile, numbers, block, massive)
    return Subject(
        numbers, block, tuple(test), tuple(detection), how, provenance(dit), onset, massive, disruption=disruption
    )


def profile_edit(dit: DiT) -> Disrupt | None:
    """The disruption that the model's default profile describes; None where it describes none."""
    profile = default_profile(dit)
    return None if profile is None or profile["block"] is None else Disrupt.from_profile(profile)


def disruption_of(
    profile: dict[str, Any] | None, channels: Sequence[int], block: int, massive: Massive | None
) -> Disrupt:
    """The profile's disruption, where there is one; else the channels that are massive at the block, zeroed.

    Raises:
        ValueError: none of the detected channels is massive at the block.
    """
    if profile is not None and profile["block"] is not None:
        return Disrupt.from_profile(profile)
    if massive is None:
        return Disrupt(channels, block)
    here = [c for c in channels if c in massive.at(block)]
    if not here:
        first = ", ".join(f"{c} from block {b} on" for c, b in massive.onset.items())
        raise ValueError(f"no channel is massive at block {block} (massive: {first}): pass block=, or channels=")
    return Disrupt(here, block)


def default_block(dit: DiT) -> tuple[int, str]:
    """The block of the default profile, else the middle one; and which it is, in words."""
    profile = default_profile(dit)
    if profile is not None and profile["block"] is not None:
        return profile["block"], f"block: the profile's ({profile_words(profile)})"
    return len(dit.blocks) // 2, "block: the middle one, not chosen by any objective"


def check_channels(dit: DiT, channels: Sequence[int]) -> None:
    """Raise for channels that this model does not have."""
    if not len(channels):
        raise ValueError("channels is empty: name at least one, or pass None to detect them")
    wrong = [c for c in channels if not 0 <= c < dit.width]
    if wrong:
        raise IndexError(f"channels {wrong} requested; there are 0 to {dit.width - 1}")
