"""Do a DiT's hidden states find the same place in another picture, and do massive channels keep them from it?

DiTF (arXiv 2505.18584) reports that zeroing the massive channels and modulating by the block's own AdaLN turns poor
features into good ones. Here the correspondences are known exactly (`picture_warps`), so PCK, the percentage of
keypoints matched within a threshold, needs no labels. For each variant of the features, controls included, the best
block and noise level are chosen on development pictures; the score is from other pictures. All variants are searched
equally.

The controls of discarding, and of the massive channels' map (`mrep`), are as many other channels. The controls of AdaLN
are its own shift and scale with the channels permuted. Two baselines need no model: a token drawn at random (`chance`),
and the token at the same place (`position`), which a positional embedding alone would find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools._as_list import as_list
from dg_tools.activations._features import WITH_CHANNELS, Recipe, entries, noisy
from dg_tools.datasets.examples import Example, Items, examples
from dg_tools.datasets.references import References
from dg_tools.experiments.channel_sets import check_controls, draws
from dg_tools.experiments.pck import THRESHOLDS, Plan, Stage, Variant, levels_of, noise_seed, score
from dg_tools.experiments.picture_warps import TASKS, warped_pictures
from dg_tools.experiments.result import CONTROLS, Outcome, Result
from dg_tools.experiments.subject import Subject, check_channels, choose
from dg_tools.metrics.keypoints import nearest_tokens, token_centres
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import encode
from dg_tools.onestep import check_velocity, conditions

SIGMAS = (0.1, 0.3, 0.5, 0.7)
GAIN = 5.0  # percentage points: one keypoint in twenty
RECIPES: tuple[Recipe, ...] = ("raw", "discard", "adaln", "ditf", "mrep")


def correspondence(
    dit: DiT,
    prompts: Items,
    seeds: int | Sequence[int] = (0,),
    *,
    channels: Sequence[int] | None = None,
    block: int | Sequence[int] | None = None,
    sigmas: Sequence[float] = SIGMAS,
    tasks: Sequence[str] | None = None,
    develop: float = 0.25,
    controls: int = CONTROLS,
    batch: int = 32,
    words: str = "",
    folder: References | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Score DiTF's features, each of its steps alone, and controls against raw features by PCK, on warped pictures.

    The primary outcome is DiTF minus raw, in percentage points within one token, mean over tasks, with an interval
    clustered by picture. Its controls discard as many other channels.

    Args:
        dit: any DiT that predicts a velocity.
        prompts: `Reference`s, (prompt, picture), (prompt, picture, mask) or `Example`s: pictures of one size, PIL,
            paths or tensors (3, H, W) in [-1, 1], masks (H, W) 0..1, the object; without masks every token is a
            keypoint.
        seeds: of the noise; a picture and its warped copy get different noise, since equal noise would match.
        channels: massive channels; None: detected on the development pictures.
        block: candidates whose input is read, one or several; None: all.
        sigmas: candidate noise levels, above 0 and up to 1.
        tasks: of `picture_warps.TASKS`; None: all that these pictures have.
        develop: share of the pictures on which channels, block and sigma are chosen; the rest is scored.
        controls: draws, each with the same choice of block and sigma.
        batch: pictures per forward; the inputs of all candidate blocks are held for (tasks + 1) x batch pictures.
        words: prompt for all pictures.
        folder: where `Reference`s have their pictures (default: the embedded model's).
        **kwargs: passed to the pipeline's call.

    Returns:
        `table`: picture, prompt, seed, task, variant, recipe, role, block, sigma, threshold (tokens), pck (percent).
        `tables`: development (mean PCK by variant, block and sigma), chosen, levels (chance and position by task),
        matches (of one picture), query and target (its warped copy and itself).

    Raises:
        ValueError, IndexError: too few pictures, no seeds, settings out of range, a block or channels not there.
    """
    check_velocity(dit)
    items, seeds = examples(dit, prompts, folder, truth=True), as_list(seeds)
    blocks = list(range(len(dit.blocks))) if block is None else list(np.atleast_1d(np.asarray(block)).tolist())
    check_search(dit, block, blocks, sigmas, batch)
    kinds = tuple(available(items) if tasks is None else tasks)
    if channels is not None:
        check_channels(dit, channels)
    check_controls(dit, channels or (), controls)
    if not items:
        raise ValueError("an empty list of prompts: pass at least three, one to choose on and two to test on")
    whole = Stage(*warped_pictures(dit, items, kinds), [x.prompt for x in items], list(range(len(items))))
    subject = divided(dit, items, seeds, channels, blocks[0], develop, progress, kwargs)
    check_controls(dit, subject.channels, controls)
    every = variants(dit, subject.channels, controls)

    place = {id(item): i for i, item in enumerate(items)}
    first, rest = (whole.part([place[id(x)] for x in part]) for part in (subject.detection, subject.test))
    common = {"batch": batch, "words": words, "progress": progress, **kwargs}
    search: Plan = {(b, s): every for s in sigmas for b in blocks}
    development = means(score(dit, first, seeds, search, **common))
    best = development.loc[development.groupby("variant", sort=False)["pck"].idxmax()]
    plan: dict[tuple[int, float], list[Variant]] = {}
    for row in best.itertuples():
        plan.setdefault((row.block, row.sigma), []).append(next(v for v in every if v.name == row.variant))
    table = score(dit, rest, seeds, plan, **common)
    levels = levels_of(rest, dit.grid(*rest.originals.shape[-2:]))
    subject = replace(
        subject,
        block=int(best.set_index("variant").loc["ditf", "block"]),
        how=f"{subject.how.split(';')[0]}; block (its input) and sigma: each variant's best on development pictures",
    )
    settings = subject.settings(
        sigmas=list(sigmas),
        blocks=blocks,
        tasks=list(kinds),
        seeds=list(seeds),
        develop=develop,
        words=words,
        controls=controls,
        **kwargs,
    )
    tables = {
        "development": development,
        "chosen": best[["variant", "recipe", "role", "block", "sigma", "pck"]].reset_index(drop=True),
        "levels": levels,
        **example(dit, rest.part([0]), seeds[0], plan, words, kwargs),
    }
    notes = [] if "flat" in kinds else ["no flat twins: these pictures have none, or tasks= leaves them out"]
    question = "Do the features find the same place in another picture, and do massive channels keep them from it?"
    return Result("correspondence", question, table, effects(table, levels, controls), settings, tables, notes)


def check_search(dit: DiT, block: Any, blocks: Sequence[int], sigmas: Sequence[float], batch: int) -> None:
    """Raise for candidate blocks and noise levels that this model does not have, before any forward."""
    if batch < 1:
        raise ValueError(f"batch={batch} requested; at least 1")
    for index in blocks:
        dit.block(index)
    if not blocks or not sigmas or not all(0 < s <= 1 for s in sigmas) or len(set(sigmas)) != len(sigmas):
        raise ValueError(
            f"block={block}, sigmas={list(sigmas)}; at least one block is needed, and distinct sigmas above 0 "
            "and up to 1"
        )


def means(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean PCK at the first threshold, by variant, block and sigma."""
    strict = scores[scores["threshold"] == THRESHOLDS[0]]
    groups = strict.groupby(["variant", "recipe", "role", "block", "sigma"], sort=False)
    return groups["pck"].mean().reset_index()


def available(items: Sequence[Example]) -> list[str]:
    """The tasks that these pictures have."""
    return [t for t in TASKS if t != "flat" or all(x.reference is not None for x in items)]


def divided(
    dit: DiT,
    items: list[Example],
    seeds: Sequence[int],
    channels: Sequence[int] | None,
    block: int,
    develop: float,
    progress: bool,
    kwargs: dict[str, Any],
) -> Subject:
    """Development pictures in `detection`, the others in `test`, whether or not channels are to be detected."""
    size: dict[str, int] = {}
    if items[0].reference is None:
        size = dict(zip(("height", "width"), items[0].picture.shape[-2:], strict=True))
    if not 0 < develop < 1:
        raise ValueError(f"develop={develop}; a share of the pictures between 0 and 1 is needed")
    settings = {"block": block, "detect": develop, "progress": progress, **kwargs, **size}
    if channels is None:
        return choose(dit, items, seeds, **settings)
    subject = choose(dit, items, seeds, channels=channels, least=3, **settings)  # one picture to choose on, two to test
    order = np.random.default_rng(0).permutation(len(items))
    count = min(max(1, round(develop * len(items))), len(items) - 2)
    first, rest = sorted(order[:count]), sorted(order[count:])
    return replace(subject, detection=tuple(items[i] for i in first), test=tuple(items[i] for i in rest))


def variants(dit: DiT, channels: Sequence[int], controls: int) -> list[Variant]:
    """The recipes, and control draws of all but the raw one."""
    massive = tuple(channels)
    every = [Variant(r, r, massive if r in WITH_CHANNELS else ()) for r in RECIPES]
    others = draws([c for c in range(dit.width) if c not in set(massive)], len(massive), controls, seed=0)
    for i, other in enumerate(others):
        every += [Variant(f"{r}, control {i}", r, other) for r in WITH_CHANNELS]
        every.append(Variant(f"adaln, control {i}", "adaln", (), i))
    return every


def effects(table: pd.DataFrame, levels: pd.DataFrame, controls: int) -> list[Outcome]:
    """What the recipe (primary) and each of its steps gain, by picture, at the first threshold."""
    shown = table[table["threshold"] == THRESHOLDS[0]]
    pck = shown.pivot_table(index="picture", columns="variant", values="pck", aggfunc="mean")
    plain = levels[levels["threshold"] == THRESHOLDS[0]].groupby("picture")[["chance", "position"]].mean()
    best = plain.loc[pck.index, plain.mean().idxmax()]
    other, permuted = "as many other channels discarded", "the same AdaLN with its channels permuted"
    plan = [
        ("recipe", "DiTF's features match better than raw ones", "ditf", pck["raw"], other, GAIN),
        ("discard on top", "discarding massive channels adds to AdaLN", "ditf", pck["adaln"], other,
         0.0),
        ("map on top", "the map of the massive channels adds to AdaLN", "mrep", pck["adaln"],
         "the map of as many other channels", 0.0),
        ("adaln alone", "the block's AdaLN makes better features of raw ones", "adaln", pck["raw"], permuted, GAIN),
        ("discard alone", "discarding massive channels makes better features of raw ones", "discard", pck["raw"], other,
         0.0),
        ("raw over no model", f"raw features match better than {best.name} alone", "raw", best, "", 0.0),
        ("ditf over no model", f"DiTF's features match better than {best.name} alone", "ditf", best, "", 0.0),
    ]  # fmt: skip
    return [
        Outcome.from_values(
            name,
            claim,
            (pck[variant] - base).to_numpy(),
            pck.index,
            null=[(pck[f"{variant}, control {i}"] - base).mean() for i in range(controls)] if control else (),
            unit=f"percentage points of keypoints within {THRESHOLDS[0]:g} token",
            direction="above",
            margin=margin,
            control=control or "none",
            primary=name == "recipe",
        )
        for name, claim, variant, base, control, margin in plan
    ]


def example(
    dit: DiT, stage: Stage, seed: int, plan: Plan, words: str, kwargs: dict[str, Any]
) -> dict[str, pd.DataFrame]:
    """Where raw and DiTF's features send the tokens of the first test picture's warped copy, and both pictures."""
    originals, kind = stage.originals, stage.kinds[0]
    height, width = originals.shape[-2:]
    inputs = conditions(dit, [words], height, width, **kwargs)
    rows, columns = dit.grid(height, width)
    matches = {"row": token_centres(rows, columns)[:, 0], "column": token_centres(rows, columns)[:, 1]}
    matches |= {"true_row": kind.truth[0, :, 0], "true_column": kind.truth[0, :, 1], "keypoint": kind.keypoints[0]}
    for (block, sigma), there in plan.items():
        for variant in (v for v in there if v.name in ("raw", "ditf")):
            target, query = (
                variant.of(entries(dit, noisy(encode(dit, x), sigma, [n]), sigma, inputs, [block])[block])
                for x, n in ((originals, noise_seed(seed, 0)), (kind.pictures, noise_seed(seed, 1)))
            )
            matches[variant.name] = nearest_tokens(query, target)[0].cpu()
    return {
        "matches": pd.DataFrame({k: v.numpy() for k, v in matches.items()}),
        "query": pixels(kind.pictures[0]),
        "target": pixels(originals[0]),
    }


def pixels(picture: torch.Tensor) -> pd.DataFrame:
    """A picture (3, H, W) in [-1, 1] as tidy rows, 0..1."""
    y, x = np.indices(picture.shape[1:])
    shown = ((picture + 1) / 2).clamp(0, 1).flatten(1)
    return pd.DataFrame({"y": y.ravel(), "x": x.ravel(), **dict(zip("rgb", shown.numpy(), strict=True))})
