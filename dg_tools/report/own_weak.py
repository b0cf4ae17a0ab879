"""The weak models of a model without references: zeroing, and what `auto` chooses; both on the first part."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from dg_tools.guidance.auto import choose
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.models.journal import Journal
from dg_tools.report import rules, samples
from dg_tools.report.channels import Found
from dg_tools.report.own_channels import Side
from dg_tools.report.own_samples import OwnSamples
from dg_tools.report.sample_rows import Weak
from dg_tools.report.stages import Stages, Unit
from dg_tools.report.subjects import LEAST_CHOICE, Subjects


@dataclass(frozen=True)
class Chosen:
    """What was chosen on the first part.

    Attributes:
        weak: what is known of both weak models. edits: edit and w of those that act, by name.
        effects: of zeroing, by block. weights: low band of the samples of zeroing, by w.
        profile: of `auto`; block None where it names none, and None where there is no massive channel.
        why: why `auto` has no profile.
    """

    weak: list[Weak]
    edits: dict[str, tuple[Disrupt, float]]
    effects: dict[int, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    profile: dict[str, Any] | None = None
    why: str = ""

    @property
    def main(self) -> str:
        """The weak model that is shown: `auto`, else `zero`; empty where there is none."""
        return next((name for name in ("auto", "zero") if name in self.edits), "")


def massive_at(found: Found) -> dict[int, list[int]]:
    """The channels that are massive at a block at half of the noise levels, by block."""
    held = found.cells.mean(0) >= 0.5
    return {int(b): [c for c in found.channels if held[b, c]] for b in found.blocks}


def chosen(stages: Stages, subjects: Subjects, side: Side, drawn: OwnSamples, found: Found, chunk: int) -> Chosen:
    """Both weak models.

    Args:
        stages, subjects, side: units, prompts, and the part on which is chosen.
        drawn: samples of that part, whose base is drawn.
        found: the massive channels.
        chunk: pictures at once.
    """
    known: list[Weak] = []
    edits: dict[str, tuple[Disrupt, float]] = {}
    pairs = side.everything

    @cache
    def steps() -> Any:
        return samples.one_steps(stages.dit, pairs)

    def effect(edit: Disrupt) -> Unit:
        return Unit(dict(samples.effect(steps(), edit)))

    there = massive_at(found)
    effects: dict[int, dict[str, float]] = {}
    weights: dict[str, float] = {}
    if there:
        jobs = {f"block {b}": partial(effect, Disrupt(channels, b)) for b, channels in there.items()}
        units = stages.each("zeroing", jobs, [side.depends, {str(b): c for b, c in there.items()}])
        effects = {b: units[f"block {b}"].values for b in there}
        block = samples.zero_block(effects)
        edit, acts = Disrupt(there[block], block), effects[block]["acts"]
        words = f"channels {edit_channels(edit)} x 0 after block {block}"
        if acts >= rules.ACTS:
            w, weights = weight_of_zero(drawn, edit)
            edits["zero"] = edit, w
            words += f", w {w:g}"
        known.append(Weak("zero", words, acts))
    else:
        known.append(Weak("zero", why="no channel is massive"))
    profile, why = automatic(stages, subjects, drawn.steps, chunk)
    if profile is None or profile["block"] is None:
        known.append(Weak("auto", why=why or "auto names no block: " + profile_words(profile)))
        return Chosen(known, edits, effects, weights, profile, why)
    edit, w = Disrupt.from_profile(profile), float(profile["detail_guidance_scale"])
    unit = stages.once("weak model", partial(effect, edit), [side.depends, edit.to_json()])
    words = f"channels {edit_channels(edit)} x {edit.rho:g} after block {edit.block}, w {w:g}"
    known.append(Weak("auto", words, unit.values["acts"]))
    if unit.values["acts"] >= rules.ACTS:
        edits["auto"] = edit, w
    return Chosen(known, edits, effects, weights, profile, why)


def edit_channels(edit: Disrupt) -> str:
    """The channels of an edit, in words."""
    return ", ".join(map(str, edit.channels))


def profile_words(profile: dict[str, Any] | None) -> str:
    """Why a profile has no block, without a full stop."""
    return "" if profile is None else str(profile["verdict"]).removeprefix("no block is named: ").rstrip(".")


def weight_of_zero(drawn: OwnSamples, edit: Disrupt) -> tuple[float, dict[str, float]]:
    """The largest of `rules.WEIGHTS` whose samples keep the low band, else the smallest; and the low bands of all."""
    low = {}
    for w in rules.WEIGHTS:
        table = drawn.run(f"DG, zero, w {w:g}", partial(guided, edit, w), [edit.to_json(), w])
        low[w] = float(np.mean(table["low"]))
    kept = [w for w in rules.WEIGHTS if low[w] >= rules.LAYOUT]
    return max(kept, default=min(rules.WEIGHTS)), {f"{w:g}": value for w, value in low.items()}


def guided(edit: Disrupt, w: float, start: int) -> samples.Setting:
    """Detail Guidance away from an edit; the same for each chunk."""
    return (), DetailGuidance(1.0, w, edit)


def automatic(stages: Stages, subjects: Subjects, steps: int, chunk: int) -> tuple[dict[str, Any] | None, str]:
    """The profile of `auto` on the first prompts, or why there is none."""
    words = [x.prompt for x in subjects.choice[:LEAST_CHOICE]]
    call = {"steps": steps, "height": subjects.height, "width": subjects.width}
    depends = {"prompts": words, "objective": choose.OBJECTIVE, "chunk": chunk, **call}

    def make() -> Unit:
        place = stages.file("auto", "", depends).with_suffix(".part")
        journal = Journal(place, {**depends, "weights": stages.about["weights"]})
        try:
            profile = choose.chosen(stages.dit, words, journal, stages.progress, chunk, **call)
        except RuntimeError as error:
            if "no massive channel" not in str(error):
                raise
            return Unit({"profile": None, "why": "no channel is massive on the prompts of auto"})
        except KeyboardInterrupt:
            journal.interrupted()
            raise
        journal.close()
        about = {name: stages.about[name] for name in ("model", "weights", "dtype")}
        return Unit({"profile": {**about, **profile}, "why": ""})

    unit = stages.once("auto", make, depends)
    return unit.values["profile"], unit.values["why"]


def knob_of(chosen: Chosen) -> Disrupt | None:
    """The channels and the block at which the dose is varied; None where there are none."""
    if not chosen.main:
        return None
    edit = chosen.edits[chosen.main][0]
    return Disrupt(edit.channels, edit.block, "scale")
