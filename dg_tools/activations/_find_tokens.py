"""Outlier tokens: which tokens stand out by their norm, and whether they are the same in every run.

Two papers of 2026 disagree on whether DiTs have outlier *tokens*: "Registers Matter for Pixel-Space DiTs" (arXiv
2605.16147) finds no patch tokens of high norm, "Taming Outlier Tokens" (arXiv 2605.05206) finds some in middle blocks.
So the rule here has stated thresholds. A token is an outlier in a run, step and block if its norm is at least `ratio`
times the median token's *and* lies far outside of the spread of the others, measured by the median absolute deviation
of log norms, which outliers do not move. The rule finds a few large tokens among many equal ones, but not tokens that
all vary. A token is `fixed` if it is an outlier in at least half of the runs and steps, like a sink at one position. An
outlier whose place follows the picture is not fixed; `any_token` says how often there is an outlier at all.

Arrays in, a table out. Only the words of text tokens need the model, for its tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.models.text_tokens import text_tokens

RATIO = 3.0  # times the median token's norm
SPREAD = 8.0  # median absolute deviations of log norms above their median
COLUMNS = ("block", "site", "stream", "token", "ratio", "spread", "stability", "fixed")


@dataclass
class OutlierTokens:
    """The result of `find_tokens`.

    Attributes:
        tokens: by stream, the fixed outliers: tokens that are outliers in at least half of the runs and steps at some
            block; the largest ratio first.
        any_token: one row for each block and stream: the share of runs and steps with an outlier, and the largest
            ratio (median over these).
        rule: the rule in words.
        table: one row for each block, stream and token, see `to_frame`.
    """

    tokens: dict[str, list[int]]
    any_token: pd.DataFrame = field(repr=False)
    rule: str
    table: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        found = [
            f"{counted(len(tokens), f'{stream} token')} {tokens[:8]}"
            for stream, tokens in self.tokens.items()
            if tokens
        ]
        return f"OutlierTokens({', '.join(found) or 'no fixed outlier token'}; rule: {self.rule})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each block, stream and token that is an outlier anywhere.

        Columns: block, site, stream, token, ratio (norm over the median token's, median over runs and steps), spread
        (how far above the others, in median absolute deviations of log norms), stability (share of runs and steps in
        which the rule holds), fixed (it holds in at least half of them), and, where a model was given, piece and pad
        (of the first prompt) for text tokens.
        """
        return self.table.copy()


def find_tokens(
    activations: Any,
    dit: DiT | None = None,
    *,
    ratio: float = RATIO,
    spread: float = SPREAD,
    streams: Sequence[str] | None = None,
) -> OutlierTokens:
    """Find tokens whose norm stands out in captured activations.

    Massive channels sit on every token and make all norms similar; a token that is found stands out despite them.

    Args:
        activations: an `Activations`, or its Dataset, with `token_norm`.
        dit: the model, to name the words of text tokens and the padding; None: they stay unnamed.
        ratio: the smallest norm, as a multiple of the median token's.
        spread: the smallest distance of the log norm from the median, in median absolute deviations.
        streams: among `image`, `text`, `reference`; None: all streams of the capture.

    Raises:
        ValueError: no `token_norm`, an unknown stream, or thresholds that every token passes.

    Example:
        >>> found = find_tokens(dg.capture(dit, ["red apple", "owl"], steps=2), dit)
        >>> found.tokens  # none on this model
        {'image': [], 'text': []}
        >>> found.any_token.columns.tolist()
        ['block', 'site', 'stream', 'share', 'largest']
    """
    data = getattr(activations, "data", activations)
    if "token_norm" not in data:
        raise ValueError(
            f"find_tokens needs token_norm; these activations have {', '.join(sorted(map(str, data)))}: capture "
            "them again"
        )
    if not ratio > 1 or not spread > 0:
        raise ValueError(f"ratio={ratio}, spread={spread}; ratio must be more than 1, and spread more than 0")
    there = [str(s) for s in data["stream"].values]
    wanted = there if streams is None else list(streams)
    if not set(wanted) <= set(there):
        raise ValueError(f"streams={wanted}; there are {', '.join(there)}")
    runs = [d for d in data["token_norm"].dims if d in ("prompt", "seed", "branch", "step")]
    norms = data["token_norm"].stack(run=runs).transpose("stream", "run", "site", "token")
    sites = [str(site) for site in data["site"].values]
    rows: list[dict[str, Any]] = []
    anywhere: list[dict[str, Any]] = []
    for stream in wanted:
        values = np.asarray(norms.sel(stream=stream).values, np.float64)
        values = values[..., ~np.isnan(values).all((0, 1))]  # the shorter stream ends before the arrays do
        if not values.shape[-1]:
            continue
        times, distance = stand_out(values)
        holds = (times >= ratio) & (distance >= spread)
        for block, site in enumerate(sites):
            if np.isnan(values[:, block]).all():  # no text after SD3's last block
                continue
            anywhere.append(
                {
                    "block": block,
                    "site": site,
                    "stream": stream,
                    "share": float(holds[:, block].any(-1).mean()),
                    "largest": float(np.median(np.nanmax(times[:, block], -1))),
                }
            )
            for token in np.flatnonzero(holds[:, block].any(0)):
                stability = float(holds[:, block, token].mean())
                middle = {"ratio": times, "spread": distance}
                rows.append(
                    {"block": block, "site": site, "stream": stream, "token": int(token), "stability": stability}
                    | {name: float(np.nanmedian(x[:, block, token])) for name, x in middle.items()}
                    | {"fixed": stability >= 0.5}
                )
    table = pd.DataFrame(rows, columns=COLUMNS)
    if dit is not None:
        table = with_pieces(dit, table, data, norms)
    fixed = table[table["fixed"].astype(bool)]
    peaks = fixed.groupby(["stream", "token"])["ratio"].max().sort_values(ascending=False)
    tokens = {stream: [int(t) for s, t in peaks.index if s == stream] for stream in wanted}
    words = f"norm >= {ratio:g} x the median token's, {spread:g} MAD above it, in at least half of the runs and steps"
    return OutlierTokens(tokens, pd.DataFrame(anywhere), words, table)


def stand_out(norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For norms (..., tokens): the ratio to the median, and the log's distance from its median in MADs.

    The MAD is the median absolute deviation. One below one percent counts as one percent, so that rounding makes no
    outliers where all tokens are nearly equal.
    """
    logs = np.log(np.maximum(norms, 1e-30))
    logs[np.isnan(logs).all(-1)] = 0  # a block without the stream
    middle = np.nanmedian(logs, -1, keepdims=True)
    deviation = np.nanmedian(np.abs(logs - middle), -1, keepdims=True)
    return np.exp(logs - middle), (logs - middle) / np.maximum(deviation, 0.01)


def with_pieces(dit: DiT, table: pd.DataFrame, data: Any, norms: Any) -> pd.DataFrame:
    """The table with what each text token is, in the first prompt.

    Raises:
        ValueError: a family whose record names no tokenizers, where there are text tokens to be named.
    """
    named = table.assign(piece="", pad=False)
    text = named["stream"] == "text"
    if not text.any():
        return named
    count = int((~norms.sel(stream="text").isnull()).any(["run", "site"]).sum())
    words = text_tokens(dit, str(data["prompt"].values.flat[0]), count).set_index("token")
    for column in ("piece", "pad"):
        named.loc[text, column] = words[column].reindex(named.loc[text, "token"]).to_numpy()
    return named
