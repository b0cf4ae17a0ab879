"""Samples with the massive channels off: detail and semantics side by side, and where detail is lost."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dg_tools.plots.style import INK, MASSIVE, QUIET, finish, from_tidy, headline, styled, wrap

SEMANTIC = ("found", "low_correlation", "layout", "low_band")
WORDS = {
    "high_power": "high-band power",
    "high_coherent": "... coherent with the reference",
    "high_incoherent": "... the incoherent rest",
    "high_correlation": "high-band correlation",
    "flat_noise": "noise where flat",
    "normalised_laplacian_variance": "Laplacian / contrast",
    "blur": "blur (Crete 2007)",
    "found": "retrieval, top 1",
    "low_correlation": "low-band correlation\nwith the reference",
    "layout": "low-band correlation\nwith the clean sample",
    "amount": "detail at equal contrast",
    "low_band": "low-band correlation\nwith the clean sample",
}


@styled
def detail_figure(result: Any) -> Figure:
    """From a `detail` result: the first prompt's pictures; changes of detail and of semantics with their margins.

    Above: the first test prompt, clean and edited, from the same noise. Below: changes from the clean sample with 95%
    intervals over prompts, each matched control as a tick, the bound that was set beforehand dashed or shaded; marks
    are filled at the first CFG scale and hollow at the others. On the right: high-band power of one half of the picture
    when its own tokens or as many elsewhere are disrupted.
    """
    pictures = result.tables["pictures"]
    variants = list(dict.fromkeys(pictures["variant"]))
    local = result.tables.get("local")
    figure = plt.figure(figsize=(11, 6.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    above, below = parts
    shown = above.subplots(1, len(variants), squeeze=False)[0]
    for axis, variant in zip(shown, variants, strict=True):
        rows = pictures[pictures["variant"] == variant]
        axis.imshow(from_tidy(rows).clip(0, 1), interpolation="nearest")
        axis.set_title({"zero": "channels zeroed"}.get(variant, variant), fontsize=8)
        axis.set_axis_off()
    columns = 3 if local is not None else 2
    axes = below.subplots(1, columns, width_ratios=(1.4, 1, 0.8)[:columns])
    outcomes = [o for o in result.outcomes if not o.name.startswith("local_")]
    semantic = (*SEMANTIC, *result.settings["margins"])
    bars(axes[0], [o for o in outcomes if base(o.name) not in semantic], "Detail: change from the clean sample")
    bars(axes[1], [o for o in outcomes if base(o.name) in semantic], "Semantics: equivalence within a margin")
    if local is not None:
        halves(axes[2], local)
    scales = ", ".join(f"{s:g}" for s in result.settings["scales"])
    headline(figure, f"{result.primary.headline()} (CFG scale {scales})")
    return finish(figure)


def base(name: str) -> str:
    """An outcome's measure, without its CFG scale."""
    return name.rsplit("_s", 1)[0] if name.rsplit("_s", 1)[-1].replace(".", "").isdigit() else name


def bars(axis: Any, outcomes: list[Any], title: str) -> None:
    """One row per measure, one mark per scale, controls as ticks, and the margin."""
    names = list(dict.fromkeys(base(o.name) for o in outcomes))
    seen: dict[str, int] = {}
    for o in outcomes:
        name = base(o.name)
        row = names.index(name) + 0.3 * seen.get(name, 0)
        first = name not in seen
        seen[name] = seen.get(name, 0) + 1
        axis.plot(o.null, [row] * len(o.null), "|", color=QUIET, ms=7, alpha=0.7)
        axis.plot([o.low, o.high], [row, row], color=MASSIVE)
        axis.plot(o.estimate, row, "o", color=MASSIVE, mfc=MASSIVE if first else "white", ms=5)
        if o.direction == "within":
            axis.fill_betweenx([row - 0.12, row + 0.12], -o.margin, o.margin, color=INK, alpha=0.15, lw=0)
        else:
            axis.plot([o.margin] * 2, [row - 0.15, row + 0.15], color=INK, lw=1.5, ls=":")
    axis.axvline(0, color=INK, lw=0.6)
    axis.set_yticks(range(len(names)), [WORDS.get(n, n.replace("amount ", "... ")) for n in names], fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.5)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("change, or correlation; dotted and shaded: bounds", fontsize=8)
    if outcomes:
        first = outcomes[0]
        words = "massive channels off" + (" (hollow: next CFG scale)" if max(seen.values()) > 1 else "")
        marks: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "ha": "center"}
        axis.annotate(words, (first.estimate, 0), (0, 6), color=MASSIVE, **marks)
        if first.null:
            axis.annotate("controls", (max(first.null), 0), (0, -12), color=QUIET, **marks)


def halves(axis: Any, local: Any) -> None:
    """Each prompt's change of high-band power in a half, disrupted there against disrupted elsewhere.

    Seeds, and pictures with the same prompt, are averaged.
    """
    keys = ["prompt", "seed", "measured"]
    change = (local["power"] - local["clean"]) / local["clean"].mean()
    there = local["disrupted"] == local["measured"]
    own, other = (
        local[keys].assign(change=change)[at].groupby(keys, sort=False)["change"].mean() for at in (there, ~there)
    )
    own, other = own.groupby("prompt", sort=False).mean(), other.groupby("prompt", sort=False).mean()
    for prompt in own.index:
        axis.plot([0, 1], [own[prompt], other[prompt]], "-", color=QUIET, lw=0.8)
    axis.plot([0] * len(own), own, "o", color=MASSIVE, ms=4)
    axis.plot([1] * len(other), other, "o", color=QUIET, ms=4)
    axis.plot([0, 1], [own.mean(), other.mean()], "s-", color=INK)
    axis.axhline(0, color=INK, lw=0.6)
    axis.set_xticks([0, 1], ["disrupted\nthere", "in the\nother half"], fontsize=8)
    axis.set_xlim(-0.4, 1.4)
    axis.set_title("Token-local disruption", fontsize=9)
    axis.set_ylabel(wrap("change of a half's high-band power, of the clean mean", 30), fontsize=8)
