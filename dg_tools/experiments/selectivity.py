"""The outcomes of the one-step experiment, from its table: what does the edit do that equal-harm controls do not?

An effect is a log ratio of errors against the clean run, of one picture at one sigma (over its noise seeds), then a
mean over sigma: every picture and every sigma counts once, and ratios of 2 and 1/2 cancel. Intervals resample prompts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dg_tools.experiments.result import Direction, Outcome
from dg_tools.metrics import bootstrap_interval, bootstrap_ratio

NO_OP = 0.05  # a change of the error by a twentieth is half of what equal harm allows: nothing
HALF = 0.5  # "most of it": more than half
REGIONS = ("foreground", "background")
EQUAL = "shifts of as many other channels, scaled to the same x0 error"


def log_changes(table: pd.DataFrame, column: str = "error") -> pd.DataFrame:
    """Log of error over clean error, of the mean over noise seeds: (variant, sigma, picture) x (bands and `total`).

    `total`: of the whole picture, its mean too, or of a region's bands together.
    """
    rows = ["variant", "sigma", "picture"]
    wide = table.pivot_table(column, rows, "band", sort=False)
    wide["total"] = table.groupby(rows)["total"].mean() if column == "error" else wide.sum(axis=1)
    logs = np.log(wide)
    return logs - logs.xs("clean").reindex(logs.index.droplevel("variant")).to_numpy()


def log_ratios(table: pd.DataFrame, column: str = "error") -> pd.DataFrame:
    """The mean of `log_changes` over sigma: (variant, picture) x (bands and `total`)."""
    return log_changes(table, column).groupby(["variant", "picture"], sort=False).mean()


def by_sigma(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy: variant, role, sigma, band, log_ratio (mean over pictures)."""
    mean = log_changes(table).groupby(["variant", "sigma"], sort=False).mean()
    tidy = mean.reset_index().melt(["variant", "sigma"], var_name="band", value_name="log_ratio")
    return tidy.assign(role=tidy["variant"].map(roles(table)))


def roles(table: pd.DataFrame) -> pd.Series:
    """Variant -> role."""
    return table.groupby("variant", sort=False)["role"].first()


class AgainstControls:
    """The edit against its controls, on one table.

    Args:
        table: rows of `NoisedPictures.measure` with `variant`, `role` (clean, edit, control) and `sigma`.
        controls: the variants that count as controls.
    """

    def __init__(self, table: pd.DataFrame, controls: list[str]) -> None:
        self.table = table
        self.controls = controls
        self.edit = table.loc[table["role"] == "edit", "variant"].iloc[0]
        self.ratios = log_ratios(table)
        self.prompts = table.groupby("picture", sort=False)["prompt"].first()

    def clusters(self, pictures: Any) -> np.ndarray:
        """The prompt of each picture."""
        return self.prompts.loc[pictures].to_numpy()

    def outcome(self, name: str, claim: str, values: pd.Series, *, compare: bool = True, **settings: Any) -> Outcome:
        """An outcome from one value for each (variant, picture); the null has the controls' means of the same."""
        ours = values.xs(self.edit)
        null = [values.xs(c).mean() for c in self.controls] if compare else []
        return Outcome.from_values(name, claim, ours, self.clusters(ours.index), null=null, **settings)

    def selectivity(self) -> pd.Series:
        """High-band log ratio minus the low band's, by (variant, picture)."""
        return self.ratios["high"] - self.ratios["low"]

    def primary(self) -> Outcome:
        """The edit's selectivity minus its controls', paired by picture; the null is each control against the others.

        The bound is zero, and not some least size: equal-harm controls already carry what any damage of this size does
        to the two bands, so that whatever is left is the edit's own; how large it is, the interval says.
        """
        value = self.selectivity()
        null = pd.concat({c: value.xs(c) for c in self.controls}, axis=1)
        ours = value.xs(self.edit) - null.mean(axis=1)
        draws = [(null[c] - null.drop(columns=c).mean(axis=1)).mean() for c in self.controls] if len(null.T) > 1 else []
        return Outcome.from_values(
            "selectivity",
            "zeroing the massive channels hurts the high band, against the low band, more than controls of the same "
            "harm do",
            ours,
            self.clusters(ours.index),
            null=draws,
            unit="log ratio above the controls' mean",
            direction="above",
            margin=0.0,
            control=EQUAL,
            primary=True,
        )

    def bands(self) -> list[Outcome]:
        """Extra error of each band and of all together."""
        return [
            self.outcome(
                f"extra_{band}",
                f"zeroing the massive channels raises the {'total' if band == 'total' else band + '-band'} x0 error",
                self.ratios[band],
                unit="log ratio to clean",
                direction="above",
                margin=0.0,
                control=EQUAL,
                compare=band != "total",  # the controls are scaled to have it equal
            )
            for band in self.ratios.columns
        ]

    def own_selectivity(self) -> Outcome:
        """The edit's selectivity as it stands; any perturbation has some."""
        return self.outcome(
            "selectivity_alone",
            "zeroing the massive channels hurts the high band more than the low band",
            self.selectivity(),
            unit="log ratio",
            direction="above",
            margin=0.0,
            control=EQUAL,
        )

    def incoherent(self) -> Outcome:
        """How much of the extra high-band error is a wrong pattern, not a wrong amount."""
        high = self.table[self.table["band"] == "high"]
        mean = high.groupby(["variant", "picture"], sort=False)[["error", "incoherent"]].mean()
        extra = mean - mean.xs("clean").reindex(mean.index.droplevel("variant")).to_numpy()
        share = lambda x: x["incoherent"].sum() / x["error"].sum()  # noqa: E731
        ours = extra.xs(self.edit)
        estimate, low, high_end = bootstrap_ratio(ours["incoherent"], ours["error"], self.clusters(ours.index))
        return Outcome(
            "incoherent_share",
            "most of the extra high-band error is a wrong pattern (incoherent with the truth), not a wrong amount",
            estimate,
            low,
            high_end,
            "share of the extra high-band error",
            "above",
            HALF,
            tuple(float(share(extra.xs(c))) for c in self.controls),
            EQUAL,
        )

    def foreground(self) -> Outcome:
        """High-band damage to the object against the background's."""
        inside, outside = (log_ratios(self.table, region)["high"] for region in REGIONS)
        return self.outcome(
            "foreground",
            "the high band suffers more on the object than on the background",
            (inside - outside).dropna(),
            unit="log ratio, object minus background",
            direction="above",
            margin=0.0,
            control=EQUAL,
        )

    def axis(self) -> list[Outcome]:
        """The change of x0 along the axis of style, shaded - flat: how far, and what share of it."""
        once = self.table[self.table["band"] == "high"]
        mean = once.groupby(["variant", "picture"], sort=False)[["style_axis", "style_cosine2"]].mean()
        mean = mean.drop("clean", level="variant").dropna()
        return [
            self.outcome(
                "style_axis",
                "zeroing the massive channels moves x0 from shaded towards flat",
                mean["style_axis"],
                unit="of the way from flat to shaded",
                direction="below",
                margin=0.0,
                control=EQUAL,
            ),
            self.outcome(
                "style_axis_share",
                "a larger share of the change lies along shaded - flat than of the controls' changes",
                mean["style_cosine2"],
                unit="squared cosine",
                direction="above",
                margin=0.0,
                control=EQUAL,
            ),
        ]

    def variants(self) -> pd.DataFrame:
        """One row per variant but the clean run: mean log ratio of each band, interval of the total, and by region."""
        mean = self.ratios.groupby("variant", sort=False).mean().drop("clean")
        for region in REGIONS if REGIONS[0] in self.table else ():
            mean[region] = log_ratios(self.table, region)["high"].groupby("variant", sort=False).mean()
        totals = (self.ratios["total"].xs(v) for v in mean.index)
        intervals = [bootstrap_interval(x, self.clusters(x.index)) for x in totals]
        mean["low_end"] = [low for _, low, _ in intervals]
        mean["high_end"] = [high for _, _, high in intervals]
        return mean.reset_index().assign(role=roles(self.table)[mean.index].to_numpy())


def shares(ratios: pd.DataFrame, edit: str, further: dict[str, str], clusters: np.ndarray) -> list[Outcome]:
    """What each further edit does of the edit's own extra error (ratio of the mean log ratios of the total error).

    Args:
        ratios: of `log_ratios`.
        edit: the edit's variant.
        further: variant -> which; `mean`, `dc`, `norms` and `rescale` are known.
        clusters: prompt of each picture.
    """
    claims: dict[str, tuple[Direction, str]] = {
        "dc": ("above", "removing the channels' token mean alone does most of the damage of zeroing them"),
        "norms": ("above", "most of the damage is left where LayerNorm keeps the statistics of a clean pass"),
        "rescale": ("below", "rescaling all others as LayerNorm would, the channels kept, does less than half of it"),
    }
    outcomes = []
    for variant, which in further.items():
        theirs, ours = ratios.xs(variant)["total"], ratios.xs(edit)["total"]
        if which == "mean":
            outcomes.append(
                Outcome.from_values(
                    "mean_no_op",
                    f"setting the channels to their token mean changes the x0 error by less than {NO_OP:.0%}",
                    theirs,
                    clusters,
                    unit="log ratio of the total error to clean",
                    direction="within",
                    margin=NO_OP,
                )
            )
        if which in claims:
            direction, claim = claims[which]
            estimate, low, high = bootstrap_ratio(theirs, ours, clusters)
            unit = "of the edit's log error ratio"
            outcomes.append(Outcome(f"{which}_share", claim, estimate, low, high, unit, direction, HALF))
    return outcomes
