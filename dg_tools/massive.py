"""Which channels are massive, how much, and how stably?

A massive activation (MA) in a DiT is a channel of the residual stream that is far larger than the others on every image
token, with one sign and hardly any variation over tokens. Sun et al. (arXiv 2402.17762) require |x| > 100 and 1000
times the median. DiTs do not meet both: the peaks reported for them are about 40 to 150. The DG paper finds its
channels by eye; Few Channels (arXiv 2605.13974) ranks by the mean |x| over tokens. The default rule here has stated
thresholds, and separates "outlier" from "massive": an outlier that varies over tokens carries the picture, not a
constant.

Arrays in, tables out; no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from dg_tools.cards import card, curves, picture_table
from dg_tools.kinds import counted, kind_of

Rule = Literal["constant", "outlier", "sun", "top"]
RATIO = 5.0  # times the median channel's mean |x|
COVERAGE = 0.95  # share of tokens with one sign
VARIATION = 0.5  # coefficient of variation over tokens, at most
COLUMNS = (  # of `Massive.to_frame`
    *("block", "site", "channel", "ratio", "mean_abs", "sign", "coverage", "variation"),
    *("dc_share", "energy_share", "stability", "massive"),
)
BY_CHANNEL = (  # of `Massive.by_channel`
    *("channel", "from_block", "to_block", "blocks", "ratio", "at_block"),
    *("sign", "coverage", "variation", "energy_share", "stability"),
)
SHOWN = 6  # curves on a card


@dataclass
class Massive:
    """The result of `find_massive`.

    Attributes:
        channels: massive channels, the one with the largest ratio anywhere first.
        onset: by channel, the index of the first block where it is massive.
        sites: site names, in execution order.
        rule: the rule in words.
        table: one row for each block and outlier channel, see `to_frame`.
        variance: (blocks, channels) variance over image tokens, median over runs; used for variance-matched controls.
    """

    channels: list[int]
    onset: dict[int, int]
    sites: list[str]
    rule: str
    table: pd.DataFrame = field(repr=False)
    variance: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        words = (
            f"{counted(len(self.channels), 'massive channel')} {self.channels}"
            if self.channels
            else "no massive channel"
        )
        return f"Massive({words}; rule: {self.rule})"

    def _repr_html_(self) -> str:
        found = self.by_channel()
        lines = {}
        for channel in self.channels[:SHOWN]:
            ratios = self.table[self.table["channel"] == channel].set_index("block")["ratio"]
            lines[f"channel {channel}"] = [float(ratios.get(i, np.nan)) for i in range(len(self.sites))]
        drawing = curves(lines, self.sites, unit="mean |x| / median channel's", axis="block") if lines else ""
        words = counted(len(self.channels), "massive channel") if self.channels else "No massive channel"
        more = f", {len(self.channels) - SHOWN} more not drawn" if len(self.channels) > SHOWN else ""
        names = [f"channel {channel}" for channel in found["channel"]]
        cells = [[f"{value:.3g}" for value in row[1:]] for row in found.itertuples(index=False)]
        table = picture_table(cells, names, [c.replace("_", " ") for c in found.columns[1:]]) if names else ""
        return card(words + more, {"rule": self.rule}, table, drawing)

    def by_channel(self) -> pd.DataFrame:
        """One row per massive channel, the largest ratio first: where it is massive, and its statistics at its peak.

        Columns: channel; from_block and to_block (first and last block where it is massive); blocks (how many); ratio
        (its largest); at_block (where that is); and sign, coverage, variation, energy_share, stability at that block
        (see `to_frame`).
        """
        rows = []
        for channel in self.channels:
            own = self.table[(self.table["channel"] == channel) & self.table["massive"].astype(bool)]
            peak = own.loc[own["ratio"].idxmax()]
            where = {"from_block": int(own["block"].min()), "to_block": int(own["block"].max()), "blocks": len(own)}
            about = {name: peak[name] for name in ("sign", "coverage", "variation", "energy_share", "stability")}
            at = {"ratio": float(peak["ratio"]), "at_block": int(peak["block"])}
            rows.append({"channel": channel, **where, **at, **about})
        return pd.DataFrame(rows, columns=BY_CHANNEL)

    def to_frame(self) -> pd.DataFrame:
        """One row for each block and channel that stands out.

        Columns: block, site, channel, ratio (mean |x| over tokens / median of that over channels), mean_abs, sign (+1
        or -1), coverage (share of tokens with that sign), variation (coefficient of variation over tokens), dc_share
        (squared mean / mean square), energy_share (of the stream's mean square), stability (share of prompts, seeds and
        steps in which the rule holds), massive (it holds in at least half of them).
        """
        return self.table.copy()

    def at(self, block: int) -> list[int]:
        """Massive channels of one block, largest ratio first."""
        rows = self.table[(self.table["block"] == block) & self.table["massive"].astype(bool)]
        return rows.sort_values("ratio", ascending=False)["channel"].tolist()

    def token_variance(self, block: int) -> np.ndarray:
        """Variance over image tokens by channel at a block's output."""
        return self.variance[block]


def find_massive(
    activations: Any,
    *,
    rule: Rule = "constant",
    ratio: float = RATIO,
    coverage: float = COVERAGE,
    variation: float = VARIATION,
    k: int = 8,
    blocks: int = 2,
    stream: str = "image",
) -> Massive:
    """Channels that stand out in captured activations.

    Args:
        activations: an `Activations`, or its Dataset, with statistics over image tokens.
        rule: how a channel is judged in each run and step, at each block:
            `constant` (default): mean |x| at least `ratio` times the median channel's, one sign on at least `coverage`
                of the tokens, coefficient of variation over tokens at most `variation`.
            `outlier`: the first of these three only.
            `sun`: largest |x| over 100 and over 1000 times the median channel's mean |x| (Sun et al., for LLMs).
            `top`: the k channels with the largest mean |x|, however small (Few Channels, SPARK).
        ratio, coverage, variation, k: thresholds of the rules: a factor, a share (0..1), a coefficient of variation
            (std / |mean|), and a number of channels.
        blocks: a channel is listed in `.channels` if it is massive at this many blocks; MAs sit in *fixed* channels.
        stream: `image`, `text`, or `reference` where there are reference pictures.

    Raises:
        TypeError: something other than captured activations, such as a model.
        ValueError: an unknown rule or stream, or activations without the statistics that the rule needs.

    Example:
        >>> acts = dg.capture(dit, ["red apple", "owl"], steps=2)
        >>> found = dg.find_massive(acts)
        >>> found.channels
        [55, 58]
        >>> found.by_channel()[["channel", "from_block", "to_block", "sign"]]
           channel  from_block  to_block  sign
        0       55           0        11    -1
        1       58           9        11    -1
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r}; allowed: {', '.join(get_args(Rule))}")
    statistics = read_statistics(activations, stream, rule)
    if rule == "constant":
        holds = constant(statistics, ratio=ratio, coverage=coverage, variation=variation)
    elif rule == "outlier":
        holds = statistics["ratio"] >= ratio
    elif rule == "sun":
        holds = (statistics["abs_max"] > 100) & (statistics["abs_max"] > 1000 * statistics["median"])
    else:
        size = statistics["mean_abs"]
        holds = size >= np.sort(size, axis=-1)[..., -k][..., None]
    words = {
        "constant": f"mean |x| >= {ratio:g} x median, one sign on >= {coverage:.0%} of tokens, CV <= {variation:g}",
        "outlier": f"mean |x| >= {ratio:g} x median",
        "sun": "|x| > 100 and > 1000 x median",
        "top": f"top {k} by mean |x|",
    }[rule]
    sites = [str(site) for site in getattr(activations, "data", activations)["site"].values]
    table = table_of(statistics, holds, ratio, sites)
    massive = table[table["massive"].astype(bool)]  # an empty column has no dtype yet
    counts = massive.groupby("channel")["block"].agg(["size", "min"])
    peak = massive.groupby("channel")["ratio"].max().sort_values(ascending=False)
    channels = [int(c) for c in peak.index if counts.loc[c, "size"] >= min(blocks, len(sites))]
    return Massive(
        channels=channels,
        onset={c: int(counts.loc[c, "min"]) for c in channels},
        sites=sites,
        rule=f"{words}, in at least half of the runs and steps, at {blocks} or more blocks",
        table=table,
        variance=np.median(statistics["variance"], axis=0),
    )


def read_statistics(activations: Any, stream: str, rule: Rule) -> dict[str, np.ndarray]:
    """The statistics that the rules and the table need, each (run, site, channel); `median` is (run, site, 1).

    Raises:
        TypeError: something other than a capture, such as a model.
        ValueError: an unknown stream, or a statistic that the capture does not have.
    """
    data = getattr(activations, "data", activations)
    if not hasattr(data, "data_vars"):
        raise TypeError(
            f"find_massive looks at captured activations, and got {kind_of(activations)}: capture the model "
            'first, dg.find_massive(dg.capture(dit, ["red apple", "owl"], seeds=range(2)))'
        )
    needed = {"mean", "abs_mean", "variance", "positive"} | ({"abs_max"} if rule == "sun" else set())
    if needed - set(data):
        raise ValueError(
            f"rule {rule!r} needs {', '.join(sorted(needed))}; these activations have "
            f"{', '.join(sorted(map(str, data)))}"
        )
    if stream not in data["stream"].values:
        raise ValueError(f"stream={stream!r}; there are {', '.join(map(str, data['stream'].values))}")
    runs = [d for d in data["mean"].dims if d in ("prompt", "seed", "branch", "step")]
    part = data.sel(stream=stream).stack(run=runs).transpose("run", "site", ...)
    arrays = {name: np.asarray(part[name].values, np.float64) for name in needed}
    mean, size, variance, positive = (arrays[name] for name in ("mean", "abs_mean", "variance", "positive"))
    median = np.median(size, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        square = mean**2 + variance
        result = {
            "mean": mean,
            "mean_abs": size,
            "median": median,
            "variance": variance,
            "ratio": size / median,
            "one_sign": np.maximum(positive, 1 - positive),
            "variation": np.sqrt(variance) / np.abs(mean),
            "dc_share": mean**2 / square,
            "energy_share": square / square.sum(-1, keepdims=True),
        }
    return result | ({"abs_max": arrays["abs_max"]} if rule == "sun" else {})


def constant(
    statistics: Mapping[str, np.ndarray],
    *,
    ratio: float = RATIO,
    coverage: float = COVERAGE,
    variation: float = VARIATION,
) -> np.ndarray:
    """Where the default rule holds: of `ratio`, `one_sign` and `variation`, arrays of one shape."""
    large, steady = statistics["ratio"] >= ratio, statistics["variation"] <= variation
    return large & (statistics["one_sign"] >= coverage) & steady


def table_of(statistics: dict[str, np.ndarray], holds: np.ndarray, ratio: float, sites: list[str]) -> pd.DataFrame:
    """The rows of `Massive.to_frame`: medians over runs, for channels that meet the rule in a run or are large."""
    stability = holds.mean(0)
    shown = (stability > 0) | (np.median(statistics["ratio"], 0) >= ratio)
    rows = []
    for block, channel in zip(*np.nonzero(shown), strict=True):
        middle = {name: np.median(x[:, block, channel]) for name, x in statistics.items() if name != "median"}
        rows.append(
            {
                "block": int(block),
                "site": sites[block],
                "channel": int(channel),
                "ratio": float(middle["ratio"]),
                "mean_abs": float(middle["mean_abs"]),
                "sign": int(np.sign(middle["mean"])),
                "coverage": float(middle["one_sign"]),
                "variation": float(middle["variation"]),
                "dc_share": float(middle["dc_share"]),
                "energy_share": float(middle["energy_share"]),
                "stability": float(stability[block, channel]),
                "massive": bool(stability[block, channel] >= 0.5),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)
