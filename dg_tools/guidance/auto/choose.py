"""Choose a weak model: massive channels, a scan of blocks and doses, guided samples of the two best, a profile."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from dg_tools.datasets.prompts import prompts_for
from dg_tools.guidance.auto import price, samples, scan, store
from dg_tools.guidance.auto.trial import sampled
from dg_tools.interventions import Disrupt
from dg_tools.kinds import counted
from dg_tools.massive import Massive
from dg_tools.models.dit import DiT
from dg_tools.models.journal import Journal
from dg_tools.models.pictures import pictures
from dg_tools.models.profiles import write_profile
from dg_tools.models.provenance import provenance
from dg_tools.onestep import check_velocity, conditions
from dg_tools.progress import progress_bar

logger = logging.getLogger("dg_tools")

OBJECTIVE = (
    "a weak model that lacks detail: of the blocks and doses whose x0, one step after gain removal, has lost high-band "
    f"and kept low-band power ({scan.RULE}), the one whose guided samples gain most detail at equal contrast (amt_c) "
    "beyond a run with the guidance's own gain, the low band kept"
)
OWN: tuple[str, ...] = ("output_type", "latents", "generator", "num_images_per_prompt")  # of the reader's call alone
OWN += ("negative_prompt", "callback_on_step_end", "callback_on_step_end_tensor_inputs")


def auto_profile(
    dit: DiT,
    *,
    prompts: Sequence[str] | None = None,
    cache: bool = True,
    progress: bool = True,
    chunk: int = 2,
    **kwargs: Any,
) -> dict[str, Any]:
    """Choose channels, block, dose and weight of a weak model that lacks detail; or return a profile that says why not.

    It costs at most as much as 20 plain CFG pictures; a forecast is printed first. If it is interrupted, the finished
    parts are kept, and the next call goes on from there.

    Args:
        dit: any DiT that predicts a velocity.
        prompts: at least four; four are scanned, three of them sampled. None: general prompts of this package, or emoji
            captions for the embedded models.
        cache: read and write the profile by the hash of the weights.
        progress: show a bar.
        chunk: pictures per forward, 1 or more.
        **kwargs: passed to the pipeline's call (`max_sequence_length`, `height`, `width`, `steps` ...). A smaller size
            costs less, but a model that lacks detail at one size may not at another. Steps are limited to the
            pipeline's default; latents, callbacks and a negative prompt are left out.

    Returns:
        A profile (`dg_tools.models.profiles`): channels, block (None: nothing is eligible), mode, rho,
        detail_guidance_scale (w), window, objective, verdict (in words), scan and samples (the tables), price, weights
        (their hash).

    Raises:
        ValueError: a family that does not predict a velocity (name channels and block yourself); fewer than four
            prompts.
        RuntimeError: no channel is massive, so there is nothing to disrupt; name channels yourself.
    """
    check_velocity(dit)
    if chunk < 1:
        raise ValueError(f"chunk={chunk}; at least 1 is needed")
    if prompts is not None and len(prompts) < price.SCANNED:
        raise ValueError(f"{counted(len(prompts), 'prompt')}; auto scans at least {price.SCANNED}: pass more")
    if cache and prompts is None:
        known = store.known_profile(dit)
        if known is not None:
            return known
    file = store.kept_at(dit)
    kwargs = {k: v for k, v in kwargs.items() if k not in OWN}
    kwargs["steps"] = min(kwargs.get("steps") or dit.default_steps, dit.default_steps)
    words = list(prompts_for(dit) if prompts is None else prompts)[: price.SCANNED]
    about = provenance(dit)
    settings = {"prompts": words, "call": {k: repr(v) for k, v in sorted(kwargs.items())}, "objective": OBJECTIVE}
    journal = Journal(file.with_suffix(".part"), settings | {"weights": about["weights"]}, cache)
    try:
        profile = {"model": about["model"], **chosen(dit, words, journal, progress, chunk, **kwargs)}
    except KeyboardInterrupt:
        journal.interrupted()
        raise
    profile |= {"weights": about["weights"], "dtype": about["dtype"]}
    print(f"auto: {profile['verdict']}")
    if cache:
        try:
            logger.info("kept in %s", write_profile(file, profile))
            journal.close()
        except OSError as error:
            logger.warning("the choice is used, but could not be kept in %s (%s)", file, error)
    return profile


def chosen(dit: DiT, words: list[str], journal: Journal, progress: bool, chunk: int, **kwargs: Any) -> dict[str, Any]:
    """The choice on some prompts, as a profile without the model's own facts."""
    expected = price.forecast(dit, words[0], chunk=chunk, **kwargs)
    print(f"auto: {expected}")
    if expected.warning:
        print(f"auto: {expected.warning}")
    spent = 0.0
    bar = progress_bar(progress, total=round(expected.forwards), desc="auto", unit="forward")

    def spend(rows: float) -> None:
        nonlocal spent
        spent += rows
        bar.update(round(spent) - bar.n)

    try:
        drawn, massive, table = scanned(dit, words, journal, spend, chunk, **kwargs)
        rows = []
        for number, finalist in enumerate(samples.finalists(table, price.FINALISTS)):
            rows += sampled_rows(dit, words, drawn, table, number, finalist, journal, spend, chunk, **kwargs)
    finally:
        bar.close()
    compared = samples.compared(rows) if rows else pd.DataFrame()
    decodes = price.SAMPLED * (len(rows) + 1) if rows else 0
    unit = price.picture_rows(dit) * expected.forward_seconds + expected.decode_seconds
    seconds = spent * expected.forward_seconds + decodes * expected.decode_seconds
    return profile_of(massive, table, compared) | {
        "source": f"dg_tools.guidance.auto on {len(words)} pictures of the model's own, sigma {scan.SIGMAS}",
        "prompts": words,
        "price": {"forwards": round(spent), "decodes": decodes, "pictures": round(seconds / unit, 2)},
    }


def scanned(
    dit: DiT, words: list[str], journal: Journal, spend: Any, chunk: int, **kwargs: Any
) -> tuple[torch.Tensor, Massive, pd.DataFrame]:
    """The pictures' latents, the massive channels, and the scan's table.

    Raises:
        RuntimeError: no channel is massive.
    """
    seeds = list(range(len(words)))
    parts = [slice(i, min(i + chunk, len(words))) for i in range(0, len(words), chunk)]
    size = {name: kwargs.get(name) for name in ("height", "width")}
    call = {k: v for k, v in kwargs.items() if k not in ("steps", *size)}
    inputs = [conditions(dit, words[part], **size, **call) for part in parts]
    drawn, statistics = [], []
    for part, own in zip(parts, inputs, strict=True):
        name = f"pictures {part.start} to {part.stop}"
        latents = journal.latents(name)
        if latents is None:
            latents = sampled(dit, words[part], seeds[part], spend, **kwargs).latents
            journal.keep_latents(name, latents)
        drawn.append(latents.to(dit.device))
        levels = {sigma: scan.noised(drawn[-1], seeds[part], sigma) for sigma in scan.SIGMAS}
        statistics.append(scan.statistics_at(dit, levels, own, spend))
    massive = scan.massive_in(dit, statistics)
    if not massive.channels:
        raise RuntimeError(
            f"no channel of this model is massive ({massive.rule}): name channels and block yourself, "
            "Disrupt(channels, block)"
        )
    steps = kwargs["steps"]
    blocks = scan.candidates(dit, massive, price.scan_room(dit, steps))
    edits = [Disrupt(scan.channels_at(massive, b), b, "scale", rho=rho) for b in blocks for rho in scan.RHOS]
    results = []
    for part, latents, own in zip(parts, drawn, inputs, strict=True):
        name = f"scan {part.start} to {part.stop}"
        if name not in journal:
            journal[name] = scan.trial_of(dit, latents, seeds[part], own, edits, spend)
        results.append(journal[name])
    return torch.cat(drawn), massive, scan.judged(results)


def sampled_rows(
    dit: DiT,
    words: list[str],
    drawn: torch.Tensor,
    table: pd.DataFrame,
    number: int,
    finalist: dict[str, Any],
    journal: Journal,
    spend: Any,
    chunk: int,
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """The guided samples of one finalist, as plain JSON; with its gain run if the price allows one for each."""
    name = f"samples {finalist['block']} {finalist['rho']}"
    if name in journal:
        rows: list[dict[str, Any]] = journal[name]
        return rows
    count = price.SAMPLED
    base = samples.Base(words[:count], range(count), pictures(dit, drawn[:count], batch=chunk), chunk)
    blocks = [row["block"] for row in samples.finalists(table, price.FINALISTS)]
    steps = kwargs["steps"]
    room = (price.SAMPLE_PICTURES - 0.5) * price.picture_rows(dit)  # half a picture for the decoder
    with_gain = number == 0 or price.sample_rows(dit, blocks, steps, len(blocks)) <= room
    edit = Disrupt(finalist["channels"], finalist["block"], "scale", rho=finalist["rho"])
    journal[name] = samples.guided_rows(dit, base, edit, price.WEIGHTS, spend, with_gain, **kwargs)
    rows = journal[name]
    return rows


def profile_of(massive: Massive, table: pd.DataFrame, compared: pd.DataFrame) -> dict[str, Any]:
    """The profile: the choice, the verdict in words, and the tables."""
    kept = compared[compared["kept"]] if len(compared) else compared
    zero = table[table["rho"] == 0]
    words = [""]
    if len(zero) and not zero["eligible"].any():
        best = zero.loc[zero["score"].idxmax()]
        words.append(f"Zeroing (rho 0) makes no detail-deficient model here: its best score is {best['score']:+.2f}.")
    choice: dict[str, Any] = {"channels": massive.channels, "block": None}
    if not len(kept):
        words[0] = nothing_eligible(table, len(compared) > 0)
    else:
        row = kept.loc[kept["beyond"].idxmax()]
        one = table[(table["block"] == row["block"]) & (table["rho"] == row["rho"])].iloc[0]
        choice = {"channels": list(row["channels"]), "block": int(row["block"]), "mode": "scale"}
        choice |= {"rho": float(row["rho"]), "detail_guidance_scale": float(row["w"]), "window": [0.0, 1.0]}
        words[0] = (
            f"channels {choice['channels']} x {choice['rho']:g} after block {choice['block']}, w "
            f"{choice['detail_guidance_scale']:g}: one step lacks {one['score']:+.2f} doublings of detail "
            f"[{one['score_low']:+.2f}, {one['score_high']:+.2f}] beyond gain (g {one['gain']:.2f}); guided samples "
            f"have {row['amount']:+.2f}, {row['beyond']:+.2f} beyond the guidance's own gain, on {row['prompts']} "
            "prompts."
        )
    return choice | {
        "objective": OBJECTIVE,
        "verdict": " ".join(words).strip(),
        "scan": json.loads(table.round(4).to_json(orient="records")),
        "samples": json.loads(compared.round(4).to_json(orient="records")) if len(compared) else [],
    }


def nothing_eligible(table: pd.DataFrame, sampled: bool) -> str:
    """Why no block is named, in a sentence or two."""
    if sampled:
        return "no block is named: the guided samples of every finalist lose the low band. Name channels and block."
    if not len(table):
        return "no block is named: the price leaves room for no trial. Name channels and block, or take more steps."
    best = table.loc[table["score"].fillna(-1e9).idxmax()]
    return (
        f"no block is named: none of {len(table)} settings makes a weak model that lacks detail. Nearest is block "
        f"{best['block']}, rho {best['rho']:g}: {'; '.join(best['misses'])}. Name channels and block yourself, or "
        "leave Detail Guidance off."
    )
