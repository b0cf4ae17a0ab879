"""Detail and cost of every guidance, each searched equally and reported on prompts that were used for nothing else.

Each guidance has one number that sets its strength: a weight w, or CFG's scale s. The same number of values is tried
for each guidance, on the same search prompts. Of the values that lose nothing, the one whose amount of detail is
nearest to the references' is chosen. With it the guidance runs on the other prompts, beside no guidance, from the same
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.datasets.examples import Items, as_items, examples, prompts_of, say_shared
from dg_tools.datasets.references import References
from dg_tools.experiments import rivals_outcomes as judged
from dg_tools.experiments.dose_step import OneStep
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.experiments.result import CONTROLS, Outcome, Result
from dg_tools.experiments.rivals_plan import DG, SCALES, WEIGHTS, Method, methods
from dg_tools.experiments.rivals_runs import Bench
from dg_tools.experiments.scaled_controls import as_matched, control_of, matched, moved
from dg_tools.experiments.subject import profile_edit
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.kinds import counted
from dg_tools.metrics.cell_bands import bands_note, check_size
from dg_tools.models.dit import DiT
from dg_tools.models.journal import Journal
from dg_tools.models.provenance import provenance
from dg_tools.progress import progress_bar
from dg_tools.threads import one_thread_if_small

QUESTION = "What buys detail, and at what price?"
SIGMAS = (0.3, 0.5, 0.7)  # where controls are scaled
MATCHED_ON = 4  # search prompts


def rivals(
    dit: DiT,
    pictures: Items,
    seeds: Sequence[int] = (0,),
    *,
    names: Sequence[str] | None = None,
    disrupt: Disrupt | None = None,
    blocks: Sequence[int] | None = None,
    weights: Sequence[float] = WEIGHTS,
    scales: Sequence[float] = SCALES,
    search: float | Items = 0.25,
    steps: int = 20,
    controls: int = CONTROLS,
    control_prompts: int = 12,
    batch: int = 16,
    folder: References | None = None,
    kept: str | Path | None = None,
    split_seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Search every guidance with the same budget, and report detail, rightness, layout and price on other prompts.

    The primary outcome: DG changes the amount of detail at equal contrast by more than +0.10 doublings; its controls
    are other channels that move the velocity as much. A guidance *gives detail and loses nothing* if rightness, low
    band and margin of retrieval do not fall either (`rivals_outcomes`). This needs a base that lacks detail, and a
    degraded prediction (if there is one) that differs from the model's own; else it is "not tested".

    The base is the model without guidance. Guidances that need CFG (CFG, APG, FreSca and others) are searched over s,
    with their authors' other settings. Guidances with a weight are searched over w, without CFG. DG's block and dose
    come from the profile, which `auto` chose on its own samples; the others perturb the middle block by default.

    Args:
        dit: any DiT that predicts a velocity.
        pictures: `Reference`s, (prompt, picture) pairs or `Example`s.
        seeds: noise seeds; every prompt with every seed, and each prompt has noise of its own.
        names: of `rivals_plan.NAMES`; None: all that can run on this model; the notes say which cannot.
        disrupt: how DG's weak model is made; None: as the profile says.
        blocks: that PAG, SLG and others perturb; None: the middle one.
        weights, scales: values of w and of s that are tried, as many of each.
        search: the prompts on which strengths are searched, or which share of `pictures` they are, at least two.
        steps: of every run.
        controls: control draws, on the first `control_prompts` test prompts; only where DG's detail is past its bound.
        batch: pictures in one run.
        folder: where `Reference`s have their pictures (default: the embedded ones).
        kept: a folder that keeps each run's numbers as soon as it is done, so that the same call goes on after a stop.
        split_seed: of the split.
        **kwargs: passed to the pipeline's call.

    Returns:
        A `Result`; `table` has one row per test picture and run; `tables` are `rivals` (one row per guidance: setting,
        changes with intervals, price, verdict) and `search`.

    Raises:
        ValueError: too few prompts, one that is used for both, prompts without pictures, settings out of range.
        IndexError: blocks or channels that this model does not have.

    Example:
        >>> result = dg.experiments.rivals(dit, dg.references(dit).sample(24))  # doctest: +SKIP
        >>> result.tables["rivals"]  # doctest: +SKIP
    """
    before, after = parts(pictures, search, split_seed)
    if not len(seeds) or len(set(seeds)) < len(seeds) or controls < 1 or steps < 2:
        raise ValueError(
            f"seeds={list(seeds)}, controls={controls}, steps={steps}; pass distinct seeds, at least 1 "
            "control and at least 2 steps"
        )
    say_shared([*before, *after])
    edit = disrupt if disrupt is not None else profile_edit(dit)
    at = [len(dit.blocks) // 2] if blocks is None else list(blocks)
    call = {"steps": steps, "batch": batch, "folder": folder, **kwargs}
    searched = Bench(dit, examples(dit, before, folder), seeds, **call)
    size = (searched.samples.height, searched.samples.width)
    check_size(*size, dit.vae_scale_factor)
    tried, notes = methods(dit, edit, names, at, weights, scales, steps, size)
    tested = Bench(dit, examples(dit, after, folder), seeds, first=len(before), **call)
    model = provenance(dit)
    settings = {
        "provenance": model,
        "disruption": None if edit is None else edit.to_json(),
        "blocks": at,
        "weights": sorted(weights),
        "scales": sorted(scales),
        "search": prompts_of(before),
        "test": prompts_of(after),
        "seeds": list(seeds),
        "steps": steps,
        **kwargs,
    }
    journal = Journal(Path(kept or "."), settings, kept is not None)
    runs = Runs(journal, progress, sum(len(m.values) for m in tried) + len(tried) + 2)
    try:
        with one_thread_if_small(dit.transformer):
            found = search_all(runs, searched, tried)
            base = runs.once("test none", lambda: tested.measured())
            tables = {"none": tested.table(base, rule="none", draw=-1)}
            numbers = {}
            for method in tried:
                value = found[method.name]["value"]
                name = f"test {method.name} {value:g}"
                numbers[method.name] = runs.once(name, lambda m=method, v=value: tested.measured(m.make(v)))
                tables[method.name] = tested.table(numbers[method.name], rule=method.name, draw=-1)
            null = control_changes(runs, searched, tested, edit, found, tables, controls, control_prompts)
    except KeyboardInterrupt:
        journal.interrupted()
        raise
    finally:
        runs.bar.close()
    amount = judged.lacking(tables["none"])
    first = DG if DG in numbers else tried[0].name
    effects: list[Outcome] = []
    rows = []
    for method in tried:
        name, chosen = method.name, found[method.name]
        own = null if name == DG else []
        made = judged.outcomes_of(name, tables[name], tables["none"], own, name == first)
        said = judged.verdict(made, method, numbers[name]["change"], amount[0])
        rows.append(judged.row(method, chosen, numbers[name], made, said))
        effects += made
    table = pd.DataFrame(rows)
    price = {k: base[k] for k in ("passes", "forwards", "seconds")}
    settings |= {"controls": controls, "control_prompts": control_prompts, "base": price}
    notes = [judged.dg_beside(table), *notes, *remarks(dit, at, tried, amount, len(before))]
    return Result(
        "rivals",
        QUESTION,
        pd.concat(tables.values(), ignore_index=True),
        effects,
        settings,
        {"rivals": table, "search": pd.DataFrame([r for rows in runs.rows.values() for r in rows])},
        [note for note in notes if note],
        judged.words(table, str(model["model"]), len(after)),
    )


def parts(pictures: Items, search: float | Items, seed: int) -> tuple[list[Any], list[Any]]:
    """The prompts to search on, and those to report on.

    Raises:
        ValueError: fewer than two of either, or a prompt in both.
    """
    items = as_items(pictures)
    if isinstance(search, int | float):
        order = np.random.default_rng(seed).permutation(len(items))
        count = max(2, round(search * len(items)))
        before, after = [items[i] for i in sorted(order[:count])], [items[i] for i in sorted(order[count:])]
    else:
        before, after = as_items(search), items
    both = sorted(set(prompts_of(before)) & set(prompts_of(after)))
    if both:
        raise ValueError(f"prompts used both to search and to report: {both[:3]}; use each for one of the two")
    if len(before) < 2 or len(after) < 2:
        raise ValueError(
            f"{counted(len(before), 'prompt')} to search on and {len(after)} to report on: at least 2 of each"
        )
    return before, after


class Runs:
    """Runs that are kept, with their bar."""

    def __init__(self, journal: Journal, progress: bool, total: int) -> None:
        self.journal = journal
        self.bar = progress_bar(progress, total=total, desc="rivals", unit="run")
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def once(self, name: str, make: Any) -> Any:
        """What was kept under a name, or what `make` gives now."""
        if name not in self.journal:
            self.journal[name] = make()
        self.bar.update()
        return self.journal[name]


def search_all(runs: Runs, bench: Bench, tried: Sequence[Method]) -> dict[str, Any]:
    """Every value of every method on the search prompts; the chosen rows by method."""
    base = runs.once("search none", lambda: bench.measured())
    found = {}
    for method in tried:
        rows = []
        for value in method.values:
            name = f"search {method.name} {value:g}"
            numbers = runs.once(name, lambda m=method, v=value: bench.measured(m.make(v)))
            rows.append(judged.search_row(method, value, numbers, base))
        found[method.name] = judged.choose(rows)
        runs.rows[method.name] = [{**row, "chosen": row is found[method.name]} for row in rows]
    return found


def control_changes(
    runs: Runs,
    searched: Bench,
    tested: Bench,
    edit: Disrupt | None,
    found: dict[str, Any],
    tables: dict[str, pd.DataFrame],
    draws: int,
    prompts: int,
) -> list[float]:
    """Changes of detail under DG away from other channels at DG's w; none where DG's own is not past its bound."""
    if DG not in tables or edit is None:
        return []
    detail = judged.outcomes_of(DG, tables[DG], tables["none"], [], False)[0]
    if detail.status != "holds":
        return []
    count = min(len(tested.samples), prompts * len(tested.samples) // len(dict.fromkeys(tested.samples.prompts)))
    base, weight = tables["none"]["amt_c"].to_numpy()[:count], found[DG]["value"]
    changes = []

    @cache  # not made where all doses are kept
    def target() -> tuple[list[OneStep], list[float]]:
        own = searched.samples
        noised = NoisedPictures(own.dit, own.items[:MATCHED_ON], [0], **own.kwargs)
        levels = [OneStep(noised, sigma, slice(0, len(noised)), noised.inputs[0]) for sigma in SIGMAS]
        return levels, moved(levels, edit)

    def dose_of(control: Disrupt) -> dict[str, Any]:
        levels, amounts = target()
        return matched(levels, control, amounts)

    for draw in range(draws):
        control = control_of(edit, draw)
        dose = runs.once(f"dose of control {draw}", partial(dose_of, control))
        if (scaled := as_matched(control, dose)) is None:
            continue
        guider = DetailGuidance(1.0, weight, scaled)
        numbers = runs.once(f"control {draw}, w {weight:g}", lambda g=guider: tested.measured(g, count))
        tables[f"control {draw}"] = tested.table(numbers, rule="control", draw=draw)
        changes.append(float(np.mean(np.asarray(numbers["amt_c"]) - base)))
    return changes


def remarks(dit: DiT, at: Sequence[int], tried: Sequence[Method], amount: Any, searched: int) -> list[str]:
    """What the reader must know beside the verdict."""
    count = max(len(method.values) for method in tried)
    return [
        bands_note(dit.vae_scale_factor),
        f"each strength is the best of {count} values on {searched} search prompts; a finer search may find a better",
        f"DG's block and dose were chosen by `auto` on samples of its own; PAG and others perturb block {at}, unchosen",
        f"without guidance: amt {amount[0]:+.2f} ({amount[1]:+.2f}, {amount[2]:+.2f}) doublings from the references",
        f"{len(tried)} guidances at 95% each, not corrected: one in 40 that does nothing would seem to give detail",
    ]
