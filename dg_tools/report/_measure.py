"""A report on any model: forecast, stages that are kept as they are done, sections, page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dg_tools.activations import capture
from dg_tools.datasets.examples import Example, Items, with_pictures
from dg_tools.experiments.noised_pictures import NoisedPictures
from dg_tools.models.dit import DiT
from dg_tools.report import contents, contents_guidance, kept_run, own_dose, own_rows, own_runs, own_weak, rules
from dg_tools.report.channels import Found
from dg_tools.report.extent import Extent, extent_of
from dg_tools.report.findings import Findings
from dg_tools.report.kept_run import KeptRun
from dg_tools.report.own_channels import Side, drawing, judged
from dg_tools.report.own_samples import COND, OwnSamples
from dg_tools.report.own_weak import Chosen
from dg_tools.report.plan import BATCH, Forecast, check_room, expected, steps_of
from dg_tools.report.sample_rows import Measured
from dg_tools.report.sections import Report
from dg_tools.report.stages import Stages, Unit
from dg_tools.report.subjects import Subjects, chunks, subjects
from dg_tools.report.verdict import HOLDS, Row
from dg_tools.threads import one_thread_if_small


def measure(
    dit: DiT,
    items: Items | None = None,
    *,
    out: str | Path,
    size: str | Extent = "standard",
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch: int = BATCH,
    progress: bool = True,
) -> Report:
    """What massive activations do in a model, and what Detail Guidance buys there: `out/index.html` and its numbers.

    The forecast is printed first. Every unit of work is kept in `out/stages` as soon as it is done: after a stop, the
    same call continues. Under `accelerate launch` the processes share the units, and all of them return the report.

    Args:
        dit: any DiT that predicts a velocity.
        items: prompts, (prompt, picture) pairs or `Example`s, at least six different prompts; None: an embedded model's
            references, else general prompts that ship.
        out: folder of the report, for this model alone.
        size: `quick`, `standard` or `full`.
        steps: of a sample; None: the pipeline's default, or less in a smaller size.
        height, width: of a picture; the pipeline's default where None. Given pictures have their own.
        batch: prompts in one forward, at least 2.
        progress: show a bar for each stage.

    Returns:
        The report; also in `out`: index.html, report.json, figures/, and profile.json where `auto` names a block.

    Raises:
        ValueError: a family that predicts noise, too few prompts, or a size that the model cannot take; before any run.
        FileExistsError: `out` holds a report on other weights.
        OSError: too little room on the disk, before any run; or a disk that becomes full: what is done is kept.
        ChildProcessError: another process stopped; what is done is kept.

    Example:
        >>> report = measure(dg.load("emoji-sd3"), out="report", size="quick")    # doctest: +SKIP
        >>> [row.status for row in report.claims if row.key == "auto b"]          # doctest: +SKIP
    """
    extent, folder = extent_of(size), Path(out)
    if batch < 2:
        raise ValueError(f"batch={batch}; at least 2 prompts in one forward are needed")
    given = subjects(dit, items, extent, height, width)
    count = steps_of(dit, extent, steps)
    stages = Stages(folder, dit, progress)
    try:
        with one_thread_if_small(dit.transformer):
            made = forecast_of(stages, given, extent, count, batch)
            if stages.first:
                print(made, flush=True)
            check_room(folder, made.disk)
            findings = found_in(stages, given, extent, count, batch, made)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: what is done is kept in {folder}; the same call goes on") from None
    if stages.first:
        settings = {"size": extent.name, "steps": count, "batch": batch, "draws": extent.draws, **given.about()}
        report_of(findings, settings, stages).save(folder)
    stages.workers.meet("writing the report")
    return Report.open(folder)


def forecast_of(stages: Stages, given: Subjects, extent: Extent, steps: int, batch: int) -> Forecast:
    """The forecast, timed on this machine. It is kept, so a resumed report shows the one that it began with."""

    def make() -> Unit:
        return Unit(expected(stages.dit, given, extent, steps, batch).to_json())

    depends = [given.about(), extent.name, steps, batch]
    values = dict(stages.once("forecast", make, depends).values)
    del stages.costs["forecast"]
    for name in ("forwards", "decodes", "seconds"):
        values.pop(name)
    for name in ("prompts", "pixels"):
        values[name] = tuple(values[name])
    return Forecast(**{**values, "stages": {k: tuple(v) for k, v in values["stages"].items()}})


def sides(stages: Stages, given: Subjects, steps: int, batch: int) -> tuple[dict[str, OwnSamples], dict[str, Side]]:
    """Samples and pictures of both parts: the given pictures, else the model's own samples."""
    drawn: dict[str, OwnSamples] = {}
    made: dict[str, Side] = {}
    for part in ("choice", "test"):
        own = OwnSamples(stages, given, part, steps, batch)
        own.base()
        depends = {"part": part, **given.about(), "steps": None if given.has_pictures else steps}
        made[part] = Side(part, list(chunks(len(own.prompts), batch)), partial(pairs, given, own, part), depends)
        drawn[part] = own
    return drawn, made


def pairs(given: Subjects, own: OwnSamples, part: str, where: slice) -> list[Example]:
    """Prompts and pictures of a chunk."""
    if given.has_pictures:
        return given.part(part)[where]
    return with_pictures(own.prompts[where], own.pictures(COND, where))


def found_in(stages: Stages, given: Subjects, extent: Extent, steps: int, batch: int, made: Forecast) -> Findings:
    """Everything that is measured, stage by stage."""
    dit = stages.dit
    drawn, parts = sides(stages, given, steps, batch)
    test = drawn["test"]
    found, stream, about_channels = judged(stages, parts["choice"], parts["test"], extent)
    hidden, sizes, run = looked_at(stages, parts["test"], found, given, steps)
    fine = test.tables[COND]["fineness"].tolist()
    capable = drawing(stages, parts["test"], fine, test.latents[COND].shape[1:])
    if capable.status == HOLDS:
        chosen = own_weak.chosen(stages, given, parts["choice"], drawn["choice"], found, batch)
        own_runs.draw_all(test, chosen)
    else:
        chosen = Chosen(list(own_rows.untested(f"not looked for: {capable.why}")), {})
    curve, why = dosed(stages, parts["test"], chosen, found, extent, capable)
    measured = Measured(dict(test.tables), chosen.weak)
    controls = own_runs.draw_controls(test, parts["choice"], chosen, measured, extent)
    measured = Measured(measured.tables, chosen.weak, controls)
    about_samples = own_rows.rows(measured, capable, chosen.main, own_runs.has_cfg(test))
    claims = [*about_channels, *about_samples]
    return Findings(
        dit, given, found, stream, hidden, sizes, run, curve, why, chosen, test, claims, made, dict(stages.costs)
    )


def looked_at(
    stages: Stages, side: Side, found: Found, given: Subjects, steps: int
) -> tuple[np.ndarray, list[dict[str, Any]], KeptRun]:
    """Hidden states of one picture where a channel stands out most; one run, and its headroom in float16."""
    dit, size = stages.dit, (given.height, given.width)
    level, block, top = found.strongest
    prompt = side.everything[0].prompt
    channels = found.channels[: kept_run.MOST_CHANNELS] or [top]
    blocks, (rows, columns) = len(dit.blocks), dit.grid(*size)
    raw_steps = kept_run.kept_steps(steps, blocks, dit.width, rows * columns, len(channels))

    def hidden() -> Unit:
        noised = NoisedPictures(dit, side.everything[:1], [0])
        return Unit({}, {"hidden": noised.hidden(rules.NOISE[level], block)[0]})

    def sizes() -> Unit:
        kept: dict[str, Any] = {"raw": range(blocks), "raw_steps": raw_steps, "raw_channels": channels}
        captured = capture(dit, prompt, steps=steps, height=size[0], width=size[1], **kept, progress=False)
        run = kept_run.of(captured, found.channels, channels, block, rules.NOISE[level])
        rows = captured.headroom("float16").to_dict("records")
        return Unit({"rows": rows, "run": dict(run.about)}, dict(run.arrays))

    unit = stages.once("hidden", hidden, [side.depends, level, block])
    one = stages.once("headroom", sizes, [prompt, steps, *size, raw_steps, found.channels, block, level])
    return unit.arrays["hidden"].numpy(), one.values["rows"], KeptRun(one.values["run"], one.arrays)


def dosed(stages: Stages, side: Side, chosen: Chosen, found: Found, extent: Extent, capable: Row) -> tuple[Any, str]:
    """The dose curve, or why there is none."""
    knob = own_weak.knob_of(chosen)
    if capable.status != HOLDS:
        return None, f"Not measured: {capable.why}."
    if knob is None:
        return None, f"There is no dose to vary: {chosen.weak[0].why or 'no edit of the massive channels acts'}."
    channels = found.channels or list(knob.channels)
    if 2 * len(channels) > stages.dit.width:
        return (
            None,
            f"{len(channels)} of {stages.dit.width} channels are massive: too few others are left for controls.",
        )
    return own_dose.curve(stages, side, knob, channels, extent), ""


def report_of(of: Findings, settings: dict[str, Any], stages: Stages) -> Report:
    """The report, from what was found."""
    sections = [
        contents.facts(of),
        contents.channels(of),
        contents.gates(of),
        contents.headroom(of),
        contents_guidance.dose(of),
        contents_guidance.weak_model(of),
        contents_guidance.samples_strip(of),
        contents_guidance.claims(of),
        contents_guidance.cost(of),
        contents_guidance.provenance(stages.about),
    ]
    profile = of.chosen.profile if of.chosen.profile and of.chosen.profile["block"] is not None else None
    cost = {"forecast": of.expected.to_json(), "measured": contents_guidance.totals(of.costs), "stages": of.costs}
    return Report(stages.about["model"], settings, sections, of.claims, profile, cost, stages.about, of.run)
