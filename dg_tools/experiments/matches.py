"""Do a DiT's hidden states find the same place in another picture, and do massive channels keep them from it?

DiTF (arXiv 2505.18584) reports that zeroing the massive channels and modulating by the block's own AdaLN turns poor
features into good ones. Here the correspondences are known exactly (`twins`), so that PCK, the percentage of keypoints
matched within a threshold, needs no labels. Each variant of the features, controls included, has its own block and
noise level, the best of all on development pictures, and is scored on other pictures there: no variant searches longer
than another.

The controls of discarding are as many other channels; those of AdaLN are its own shift and scale with the channels
permuted. Beside them stand two levels that need no model: a token drawn at random (`chance`), and the token at the same
place (`position`), which is what a positional embedding alone would find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.correspondence import Entry, Recipe, entries, modulated, noisy
from dg_tools.emoji import References
from dg_tools.experiments.pairs import check_truth
from dg_tools.experiments.result import CONTROLS, Outcome, Result
from dg_tools.experiments.sets import check_controls, draws
from dg_tools.experiments.subject import Subject, check_channels, choose, prompt_of
from dg_tools.experiments.twins import TASKS, Twins, check_tasks, twins
from dg_tools.generation import as_list
from dg_tools.metrics.keypoints import chance_level, correct_keypoints, match_distance, nearest_tokens, token_centres
from dg_tools.models import DiT
from dg_tools.onestep import check_velocity, conditions
from dg_tools.pictures import encode
from dg_tools.progress import progress_bar

SIGMAS = (0.1, 0.3, 0.5, 0.7)
THRESHOLDS = (1.0, 2.0)  # in tokens; the outcomes are at the first: the right token or one beside it
GAIN = 5.0  # percentage points: one keypoint in twenty
RECIPES: tuple[Recipe, ...] = ("raw", "discard", "adaln", "ditf")


@dataclass(frozen=True)
class Variant:
    """One way to make features: a recipe, the channels it discards, and a seed to permute AdaLN's channels by."""

    name: str
    recipe: Recipe
    channels: tuple[int, ...] = ()
    permuted: int | None = None

    def of(self, entry: Entry) -> torch.Tensor:
        """Features (rows, tokens, channels)."""
        if self.permuted is not None:
            width = entry.shift.shape[-1]
            order = torch.from_numpy(np.random.default_rng([7, self.permuted]).permutation(width))
            entry = Entry(entry.hidden, entry.shift[:, order], entry.scale[:, order])
        return modulated(entry, self.channels, self.recipe)


Plan = Mapping[tuple[int, float], Sequence[Variant]]  # (block, sigma) -> what to score there


def correspondence(
    dit: DiT,
    prompts: Sequence[Any],
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
    """PCK of DiTF's features against raw ones, each step alone, and controls, on twins with known correspondences.

    Primary: DiTF minus raw, in percentage points within one token, mean over tasks, interval clustered by picture; the
    controls discard as many other channels.

    Args:
        dit: any DiT that predicts a velocity.
        prompts: `Reference`s, (prompt, picture) or (prompt, picture, mask): pictures (3, H, W) in [-1, 1] of one size,
            masks (H, W) 0..1, the object; without masks every token is a keypoint.
        seeds: of the noise; a picture and its twin get different noise, else the noise would be what matches.
        channels: massive channels; None: detected on the development pictures.
        block: candidates whose input is read, one or several; None: all.
        sigmas: candidate noise levels, above 0 and up to 1.
        tasks: of `twins.TASKS`; None: all that these pictures have.
        develop: share of the pictures on which channels, block and sigma are chosen; the rest is scored.
        controls: draws, each with the same choice of block and sigma.
        batch: pictures a forward; all candidate blocks' inputs of (tasks + 1) x batch pictures are held at a time.
        words: prompt for all pictures.
        folder: where `Reference`s have their pictures (default: the embedded model's).
        **kwargs: passed to the pipeline's call.

    Returns:
        `table`: picture, prompt, seed, task, variant, recipe, role, block, sigma, threshold (tokens), pck (percent).
        `tables`: development (mean PCK by variant, block and sigma), chosen, levels (chance and position by task),
        matches (of one picture), query and target (its twin and itself).

    Raises:
        ValueError, IndexError: too few pictures, no seeds, settings out of range, a block or channels not there.
    """
    check_velocity(dit)
    items, seeds = list(prompts), as_list(seeds)
    check_truth(dit, items, folder)
    blocks = list(range(len(dit.blocks))) if block is None else list(np.atleast_1d(np.asarray(block)).tolist())
    for index in blocks:
        dit.block(index)
    if not blocks or not sigmas or not all(0 < s <= 1 for s in sigmas) or len(set(sigmas)) != len(sigmas):
        raise ValueError(
            f"block={block}, sigmas={list(sigmas)}; at least one each, sigmas distinct, above 0 and up to 1"
        )
    kinds = tuple(available(items) if tasks is None else tasks)
    check_tasks(items, kinds) if items else None
    if channels is not None:
        check_channels(dit, channels)
    check_controls(dit, channels or (), controls)
    subject = divided(dit, items, seeds, channels, blocks[0], develop, progress, kwargs)
    check_controls(dit, subject.channels, controls)
    every = variants(dit, subject.channels, controls)

    common = {"folder": folder, "batch": batch, "words": words, "progress": progress, **kwargs}
    search: Plan = {(b, s): every for s in sigmas for b in blocks}
    found, _ = score(dit, subject.detection, seeds, kinds, search, **common)
    development = (
        found[found["threshold"] == THRESHOLDS[0]]
        .groupby(["variant", "recipe", "role", "block", "sigma"], sort=False)["pck"].mean().reset_index()
    )  # fmt: skip
    best = development.loc[development.groupby("variant", sort=False)["pck"].idxmax()]
    plan: dict[tuple[int, float], list[Variant]] = {}
    for one in best.itertuples():
        plan.setdefault((one.block, one.sigma), []).append(next(v for v in every if v.name == one.variant))
    table, levels = score(dit, subject.test, seeds, kinds, plan, **common)
    chosen = best.set_index("variant")
    subject = replace(
        subject,
        block=int(chosen.loc["ditf", "block"]),
        how=f"{subject.how.split(';')[0]}; block (its input) and sigma: each variant's best on development pictures",
    )
    return Result(
        "correspondence",
        "Do the features find the same place in another picture, and do massive channels keep them from it?",
        table,
        effects(table, levels, controls),
        subject.settings(
            sigmas=list(sigmas), blocks=blocks, tasks=list(kinds), seeds=list(seeds), develop=develop, words=words,
            controls=controls, **kwargs,
        ),
        {
            "development": development,
            "chosen": best[["variant", "recipe", "role", "block", "sigma", "pck"]].reset_index(drop=True),
            "levels": levels,
            **example(dit, subject, kinds[0], seeds[0], plan, folder, words, kwargs),
        },
        [] if "flat" in kinds else ["no flat twins: these pictures have none, or tasks= leaves them out"],
    )  # fmt: skip


def available(items: Sequence[Any]) -> list[str]:
    """The tasks that these pictures have."""
    return [t for t in TASKS if t != "flat" or not any(isinstance(x, tuple) for x in items)]


def divided(
    dit: DiT, items: list[Any], seeds: Sequence[int], channels: Sequence[int] | None, block: int, develop: float,
    progress: bool, kwargs: dict[str, Any],
) -> Subject:  # fmt: skip
    """Development pictures in `detection`, the others in `test`, whether or not channels are to be found."""
    size = {} if not items or not isinstance(items[0], tuple) else dict(
        zip(("height", "width"), items[0][1].shape[-2:], strict=True))  # fmt: skip
    if not 0 < develop < 1:
        raise ValueError(f"develop={develop} asked for; a share of the pictures, between 0 and 1")
    settings = {"block": block, "detect": develop, "progress": progress, **kwargs, **size}
    if channels is None:
        return choose(dit, items, seeds, **settings)
    subject = choose(dit, items, seeds, channels=channels, least=3, **settings)  # one picture to choose on, two to test
    order = np.random.default_rng(0).permutation(len(items))
    count = min(max(1, round(develop * len(items))), len(items) - 2)
    first, rest = sorted(order[:count]), sorted(order[count:])
    return replace(subject, detection=tuple(items[i] for i in first), test=tuple(items[i] for i in rest))


def variants(dit: DiT, channels: Sequence[int], controls: int) -> list[Variant]:
    """The four recipes, and control draws of three of them."""
    chosen = tuple(channels)
    made = [Variant(r, r, chosen if r in ("discard", "ditf") else ()) for r in RECIPES]
    others = draws([c for c in range(dit.width) if c not in set(chosen)], len(chosen), controls, seed=0)
    for i, drawn in enumerate(others):
        made += [Variant(f"{r}, control {i}", r, drawn) for r in ("discard", "ditf")]  # type: ignore[arg-type]
        made.append(Variant(f"adaln, control {i}", "adaln", (), i))
    return made


def score(
    dit: DiT, items: Sequence[Any], seeds: Sequence[int], tasks: Sequence[str], plan: Plan, *,
    folder: References | None, batch: int, words: str, progress: bool, **kwargs: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """PCK of every variant at its place in the plan, and the levels that need no model."""
    originals, kinds = twins(dit, items, tasks, folder=folder)
    height, width = originals.shape[-2:]
    grid, names = dit.grid(height, width), [prompt_of(x) for x in items]
    sigmas = list(dict.fromkeys(sigma for _, sigma in plan))
    rows: list[pd.DataFrame] = []
    bar = progress_bar(progress, total=len(seeds) * len(sigmas) * -(-len(items) // batch), desc="correspondence")
    for begin in range(0, len(items), batch):
        part = slice(begin, min(begin + batch, len(items)))
        stacks = [encode(dit, pictures[part]) for pictures in (originals, *(k.pictures for k in kinds))]
        inputs = conditions(dit, [words] * (part.stop - begin), height, width, **kwargs)
        for seed in seeds:
            for sigma in sigmas:
                blocks = [b for b, s in plan if s == sigma]
                seen = [
                    entries(dit, noisy(x, sigma, [noise_seed(seed, i)] * len(x)), sigma, inputs, blocks)
                    for i, x in enumerate(stacks)
                ]
                for b in blocks:
                    for variant in plan[b, sigma]:
                        target = variant.of(seen[0][b])
                        for kind, twin in zip(kinds, seen[1:], strict=True):
                            found = nearest_tokens(variant.of(twin[b]), target).cpu()
                            labels = {"seed": seed, "task": kind.task, "variant": variant.name,
                                      "recipe": variant.recipe, "block": b, "sigma": sigma}  # fmt: skip
                            rows += judged(found, kind, part, names, grid[1], labels)
                bar.update()
    bar.close()
    table = pd.concat(rows, ignore_index=True)
    table.insert(6, "role", np.where(table["variant"] == table["recipe"], "recipe", "control"))
    return table, levels_of(kinds, names, grid)


def noise_seed(seed: int, stack: int) -> int:
    """Of the noise of the originals (stack 0) and of each task's twins."""
    return seed + 1_000_003 * stack


def judged(
    found: torch.Tensor, kind: Twins, part: slice, names: list[str], columns: int, labels: dict[str, Any]
) -> list[pd.DataFrame]:
    """PCK of one batch at each threshold."""
    away = match_distance(found, kind.truth[part], columns)
    index = {"picture": range(part.start, part.stop), "prompt": names[part]}
    return [
        pd.DataFrame({**index, **labels, "threshold": t, "pck": correct_keypoints(away, kind.keypoints[part], t)})
        for t in THRESHOLDS
    ]


def levels_of(kinds: Iterable[Twins], names: list[str], grid: tuple[int, int]) -> pd.DataFrame:
    """PCK of a token drawn at random and of the token at the same place, by picture, task and threshold."""
    here = torch.arange(grid[0] * grid[1])[None]
    made = []
    for kind in kinds:
        for t in THRESHOLDS:
            same = correct_keypoints(match_distance(here, kind.truth, grid[1]), kind.keypoints, t)
            chance = chance_level(kind.truth, kind.keypoints, *grid, t)
            index = {"picture": range(len(names)), "prompt": names, "task": kind.task, "threshold": t}
            made.append(pd.DataFrame({**index, "chance": chance, "position": same}))
    return pd.concat(made, ignore_index=True)


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
    dit: DiT, subject: Subject, task: str, seed: int, plan: Plan, folder: References | None, words: str,
    kwargs: dict[str, Any],
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Where raw and DiTF's features send the tokens of the first test picture's twin, and the two pictures."""
    originals, (kind,) = twins(dit, subject.test[:1], [task], folder=folder)
    height, width = originals.shape[-2:]
    inputs = conditions(dit, [words], height, width, **kwargs)
    rows, columns = dit.grid(height, width)
    made = {"row": token_centres(rows, columns)[:, 0], "column": token_centres(rows, columns)[:, 1]}
    made |= {"true_row": kind.truth[0, :, 0], "true_column": kind.truth[0, :, 1], "keypoint": kind.keypoints[0]}
    for (block, sigma), there in plan.items():
        for variant in (v for v in there if v.name in ("raw", "ditf")):
            target, query = (
                variant.of(entries(dit, noisy(encode(dit, x), sigma, [n]), sigma, inputs, [block])[block])
                for x, n in ((originals, noise_seed(seed, 0)), (kind.pictures, noise_seed(seed, 1)))
            )
            made[variant.name] = nearest_tokens(query, target)[0].cpu()
    return {
        "matches": pd.DataFrame({k: v.numpy() for k, v in made.items()}),
        "query": pixels(kind.pictures[0]),
        "target": pixels(originals[0]),
    }


def pixels(picture: torch.Tensor) -> pd.DataFrame:
    """A picture (3, H, W) in [-1, 1] as tidy rows, 0..1."""
    y, x = np.indices(picture.shape[1:])
    shown = ((picture + 1) / 2).clamp(0, 1).flatten(1)
    return pd.DataFrame({"y": y.ravel(), "x": x.ravel(), **dict(zip("rgb", shown.numpy(), strict=True))})
