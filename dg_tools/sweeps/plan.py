"""The plan of a sweep: its cells, from its settings and its prompts in two parts, to choose on and to report on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dg_tools.datasets.examples import Example, examples
from dg_tools.datasets.references import references
from dg_tools.kinds import some
from dg_tools.metrics import BANDS
from dg_tools.metrics.bands import Bands
from dg_tools.metrics.cell_bands import check_size, named_bands
from dg_tools.models.dit import DiT
from dg_tools.models.provenance import provenance
from dg_tools.sweeps.cells import Cell
from dg_tools.sweeps.choose import OBJECTIVES
from dg_tools.sweeps.config import Config
from dg_tools.sweeps.settings import Setting, settings_of


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep.

    Attributes:
        settings: `cond` first.
        pairs: (prompt, seed) of `development` and of `test`.
        truths: hash of each prompt's reference picture; empty where there are none.
        fixed: what all numbers depend on, as JSON: weights, dtype, device, steps, size, pixels of a latent cell, call.
        batch: pairs in a cell.
        objective, margin: of the choice.
        pictures: whether they are kept.
        config, provenance: the settings of the sweep, and the model.
    """

    settings: tuple[Setting, ...]
    pairs: dict[str, list[tuple[str, int]]]
    truths: dict[str, str]
    fixed: str
    batch: int
    objective: str
    margin: float
    pictures: bool
    config: dict[str, Any]
    provenance: dict[str, Any]

    def cells(self, split: str, numbers: Sequence[int] | None = None) -> list[Cell]:
        """The cells of a split, of all settings or of some, in order."""
        pairs = self.pairs[split]
        cells = []
        for number in range(len(self.settings)) if numbers is None else numbers:
            for start in range(0, len(pairs), self.batch):
                part = tuple(pairs[start : start + self.batch])
                truths = tuple(self.truths[p] for p, _ in part) if self.truths else ()
                cells.append(Cell(self.settings[number], split, part, truths, self.fixed))
        return cells

    @property
    def cell(self) -> int | None:
        """Pixels of a latent cell; None for an older sweep, whose bands are per pixel."""
        return json.loads(self.fixed).get("cell")

    @property
    def bands(self) -> Bands:
        """Low, mid and high, in cycles per pixel."""
        return BANDS if self.cell is None else named_bands(self.cell)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**vars(self), "settings": [s.to_json() for s in self.settings]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """From `to_json`."""
        pairs = {split: [(p, s) for p, s in part] for split, part in values["pairs"].items()}
        return cls(**{**values, "settings": tuple(map(Setting.from_json, values["settings"])), "pairs": pairs})


def plan_of(config: Config, dit: DiT, *, per_pixel: bool = False) -> tuple[Plan, dict[str, torch.Tensor]]:
    """The cells of a config on a model, and each prompt's reference picture (3, H, W) in [-1, 1].

    `per_pixel`: bands are per pixel and not per latent cell, as in older sweeps.

    Raises:
        ValueError: too few prompts, repeated ones, pictures of another size or of some prompts only, an objective that
            cannot be measured, pictures too small for a low band.
    """
    items = examples_of(config, dit)
    words = [item.prompt for item in items]
    truths = {item.prompt: item.picture for item in items if item.picture is not None}
    pairs = pairs_of(config, words)
    objective = objective_of(config, bool(truths))
    height, width = size_of(config, dit, truths)
    check_size(height, width, dit.vae_scale_factor)
    facts = provenance(dit)
    fixed = {
        "weights": facts["weights"],
        "dtype": facts["dtype"],
        "device": dit.device.type,
        "steps": dit.default_steps if config.steps is None else config.steps,
        "height": height,
        "width": width,
        "negative_prompt": config.negative_prompt,
        "call": config.call,
        **({} if per_pixel else {"cell": dit.vae_scale_factor}),
    }
    plan = Plan(
        settings=tuple(settings_of(config, dit)),
        pairs=pairs,
        truths={w: hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16] for w, t in truths.items()},
        fixed=json.dumps(fixed, sort_keys=True),
        batch=config.batch,
        objective=objective,
        margin=OBJECTIVES[objective].margin if config.margin is None else config.margin,
        pictures=config.pictures,
        config=config.to_json(),
        provenance=facts,
    )
    return plan, truths


def pairs_of(config: Config, words: list[str]) -> dict[str, list[tuple[str, int]]]:
    """The (prompt, seed) pairs of `development` and of `test`.

    Raises:
        ValueError: a prompt twice, or too few to report on.
    """
    if twice := sorted({word for word in words if words.count(word) > 1}):
        raise ValueError(
            f"prompts given more than once: {some(map(repr, twice), 3)}; pass each once, with several seeds"
        )
    count = max(1, round(config.development * len(words)))
    if len(words) - count < 2:
        raise ValueError(
            f"{len(words)} prompts, {count} of them for development: at least 2 must be left to report on with an "
            "interval; give more prompts"
        )
    order = np.random.default_rng(config.split_seed).permutation(len(words))
    parts = {"development": sorted(order[:count].tolist()), "test": sorted(order[count:].tolist())}
    return {split: [(words[i], int(s)) for i in part for s in config.seeds] for split, part in parts.items()}


def objective_of(config: Config, with_pictures: bool) -> str:
    """The objective's name.

    Raises:
        ValueError: an unknown one, or one that cannot be measured.
    """
    objective = config.objective or ("amount" if with_pictures else "detail")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown; there are {', '.join(OBJECTIVES)}")
    if objective == "amount" and not with_pictures:
        raise ValueError("objective 'amount' needs references: give references: N, or prompts with a picture each")
    if objective == "detail" and not config.pictures:
        raise ValueError("objective 'detail' compares kept pictures: leave pictures: true")
    return objective


def size_of(config: Config, dit: DiT, truths: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Height and width of the pictures: those of the references, where there are some.

    Raises:
        ValueError: the config asks for another size than the references have.
    """
    if not truths:
        return dit.size(config.height, config.width)
    size = next(iter(truths.values())).shape[-2:]
    height, width = dit.size(config.height or size[0], config.width or size[1])
    if (height, width) != tuple(size):
        raise ValueError(
            f"the references are {tuple(size)}; pictures of {height} x {width} cannot be compared with them: "
            "leave height and width out"
        )
    return height, width


def examples_of(config: Config, dit: DiT) -> list[Example]:
    """The prompts, with their pictures where there are any.

    Raises:
        ValueError: an item that is neither a string nor a mapping, or pictures for some prompts only.
    """
    if config.references is not None:
        known = references(dit)
        sample = known.sample(config.references, seed=config.reference_seed, held_out=config.held_out)
        return examples(dit, sample, known)
    items: list[Any] = []
    for item in config.prompts or ():
        if isinstance(item, dict) and set(item) == {"prompt", "picture"}:
            items.append((item["prompt"], item["picture"]))
        elif isinstance(item, str):
            items.append(item)
        else:
            raise ValueError(f"prompt {item!r}: a string, or a mapping of prompt and picture, is needed")
    return examples(dit, items)
