"""One column of the evidence: everything about one model with references, from captions to rows, kept as it goes.

from dg_tools.report import column, rules
record = column.measure(dg.load("emoji-flux"), rules.QUICK, Path("build/evidence/emoji-flux"))
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dg_tools.datasets.references import Reference, references
from dg_tools.guidance.cfg import CFG
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.models.provenance import provenance, weights_hash
from dg_tools.report import channel_rows, channels, rules, sample_rows, samples
from dg_tools.report.rules import Size
from dg_tools.report.sample_rows import Measured, Weak
from dg_tools.report.splits import SEED, split
from dg_tools.report.verdict import HOLDS, Row
from dg_tools.threads import one_thread_if_small

logger = logging.getLogger("dg_tools")

MATCHED = 4  # development captions on which the controls are scaled
DEVELOPED = 12  # development captions on which w of the zeroing is chosen


def measure_channels(dit: DiT, parts: dict[str, list[Reference]], size: Size) -> tuple[list[Row], dict[str, Any]]:
    """The rows about channels, and what the page and the samples need: channels, blocks, the table by block."""
    seeds = list(range(size.channel_seeds))
    found = channels.found(channels.measure(dit, parts["detection"], rules.NOISE, [seeds[0] + 100]))
    stream = channels.measure(dit, parts["test"], rules.NOISE, seeds)
    gone, table = None, []
    if found.channels:
        sets = channel_rows.sets_without_gates(found, size.draws)
        gone = 1 - channels.final_sizes(dit, parts["test"], rules.SIGMAS, sets, found.writers)
        table = channel_rows.by_block_table(stream, found)
    held = found.cells.mean(0) >= 0.5
    facts = {
        "channels": found.channels,
        "blocks": found.blocks,
        "massive_at": {str(b): [c for c in found.channels if held[b, c]] for b in found.blocks},
        "writers": {str(c): int(found.writers[c]) for c in found.channels},
        "tokens": stream.tokens,
        "by_block": table,
    }
    return channel_rows.rows(stream, found, gone, draws=size.draws), facts


def weak_models(
    dit: DiT, parts: dict[str, list[Reference]], facts: dict[str, Any], size: Size, kept: samples.Kept
) -> tuple[list[Weak], dict[str, tuple[Disrupt, float]]]:
    """The weak models: what is known of each before any sample, and edit and w of those that can be run."""
    known, edits = [], {}
    development = parts["development"]
    steps = samples.one_steps(dit, development)
    chosen = kept.values.setdefault("chosen", {})
    if facts["massive_at"]:
        if "zero" not in chosen:
            effects = {
                int(b): samples.effect(steps, Disrupt(there, int(b))) for b, there in facts["massive_at"].items()
            }
            block = samples.zero_block(effects)
            edit = Disrupt(facts["massive_at"][str(block)], block)
            count = min(DEVELOPED, len(development))
            captions = samples.Captions(dit, development[:count], 900, min(size.chunk, count))
            w, amounts = samples.best_weight(captions, edit, count)
            by_block = {str(b): e for b, e in effects.items()}
            chosen["zero"] = {"channels": list(edit.channels), "block": block, "w": w, "amounts": amounts,
                              "by_block": by_block}  # fmt: skip
            kept.write()
        zero = chosen["zero"]
        edits["zero"] = (Disrupt(zero["channels"], zero["block"]), zero["w"])
        text = f"channels {zero['channels']} x 0 after block {zero['block']}, w {zero['w']:g}"
        known.append(Weak("zero", text, zero["by_block"][str(zero["block"])]["acts"]))
    else:
        known.append(Weak("zero", why="no channel is massive"))
    profile = weak_model(dit)
    if profile is None:
        known.append(Weak("auto", why="auto names no weak model for these weights"))
        return known, edits
    edit, w = Disrupt.from_profile(profile), profile["detail_guidance_scale"]
    rho = edit.rho if edit.mode == "scale" else 0.0
    if "auto" not in chosen:
        chosen["auto"] = samples.effect(steps, edit)
        kept.write()
    edits["auto"] = (edit, w)
    text = f"channels {profile['channels']} x {rho:g} after block {profile['block']}, w {w:g}"
    known.append(Weak("auto", text, chosen["auto"]["acts"]))
    return known, edits


def measure_samples(
    dit: DiT, parts: dict[str, list[Reference]], facts: dict[str, Any], size: Size, kept: samples.Kept
) -> Measured:
    """All runs that the rows need: the clean ones first, the controls last and only where they can change a verdict."""
    count = size.splits.held_out
    captions = samples.Captions(dit, parts["held_out"], samples.FIRST_SEED, size.chunk)
    samples.add(kept, captions, "cond", ((), None), count)
    clean = Measured({"cond": kept.table("cond")}, [])
    if sample_rows.capable(clean).status != HOLDS:
        reason = "not looked for: the model cannot do the task"
        return Measured(clean.tables, [Weak("zero", why=reason), Weak("auto", why=reason)])
    known, edits = weak_models(dit, parts, facts, size, kept)
    cfg = f"CFG {rules.SCALES[0]:g}"
    samples.add(kept, captions, cfg, ((), CFG(rules.SCALES[0])), count)
    lacking = float(kept.table(cfg)["amt"].mean()) < rules.LACKS
    samples.all_runs(kept, captions, edits, size, lacking)
    names = [name for name in kept.values["runs"] if not name.startswith("control ")]
    measured = Measured({name: kept.table(name) for name in names}, known)
    steps = samples.one_steps(dit, parts["development"][:MATCHED])
    controls: dict[str, list[pd.DataFrame]] = {}
    for weak in known:
        if weak.name not in edits:
            continue
        edit, w = edits[weak.name]
        for row, run in (
            (sample_rows.row_a(measured, weak), f"weak, {weak.name}"),
            (sample_rows.row_b(measured, weak), f"DG, {weak.name}"),
        ):
            if row.status != "not tested" or row.why != "its controls were not run":
                continue
            twin = run.replace("auto", "zero")
            if twin in controls and edits[weak.name] == edits["zero"]:
                controls[run] = controls[twin]
                continue
            for key, control in samples.matched_controls(kept, steps, f"control {weak.name}", edit, size.draws):
                guided = run.startswith("DG")
                name = f"{key}, {'DG' if guided else 'weak'}"
                setting = ((), DetailGuidance(1.0, w, control)) if guided else ((control,), None)
                samples.add(kept, captions, name, setting, size.control_captions)
                controls.setdefault(run, []).append(kept.table(name))
    return replace(measured, controls=controls)


def weak_model(dit: DiT) -> dict[str, Any] | None:
    """The model's profile, where it names a weak model (a block) and w; else None."""
    profile = dit.profile or {}
    return profile if profile.get("block") is not None and profile.get("detail_guidance_scale") else None


def machine() -> dict[str, Any]:
    """What the numbers were computed on, without naming it."""
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads()}


def measure(dit: DiT, size: Size, folder: Path) -> dict[str, Any]:
    """A whole column: runs what is not kept, writes `column.json` and gives what it holds.

    Args:
        dit: a model with references, as the embedded ones.
        size: how much is measured. folder: where it is kept.
    """
    parts = split(references(dit), size.splits)
    began, cpu = time.perf_counter(), time.process_time()
    profile = weak_model(dit) or {}
    about = {
        "weights": weights_hash(dit),
        "size": size.name,
        "steps": rules.STEPS,
        "split_seed": SEED,
        "captions": [r.prompt for r in parts["held_out"]],
        "profile": {k: profile.get(k) for k in ("channels", "block", "mode", "rho", "detail_guidance_scale")},
    }
    kept = samples.Kept(folder / "samples.json", about)
    with one_thread_if_small(dit.transformer):
        computed_on = machine()
        about_channels, facts = measure_channels(dit, parts, size)
        logger.info("%s: channels %s", folder.name, facts["channels"])
        measured = measure_samples(dit, parts, facts, size, kept)
    seconds = kept.values.get("seconds", [0, 0])
    kept.values["seconds"] = [
        round(seconds[0] + time.perf_counter() - began, 1),
        round(seconds[1] + time.process_time() - cpu, 1),
    ]
    kept.write()
    record = {
        "about": about,
        "facts": facts,
        "weak": {w.name: w.text or w.why for w in measured.weak},
        "chosen": kept.values.get("chosen", {}),
        "seconds": kept.values["seconds"],
        "machine": computed_on,
        "provenance": provenance(dit),
        "rows": [row.to_json() for row in [*about_channels, *sample_rows.rows(measured)]],
    }
    (folder / "column.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record
