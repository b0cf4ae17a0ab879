"""The rules as numbers: bounds, what counts, what is drawn. `rules.md` says them in words; committed before any run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dg_tools.report.splits import Sizes

DRAWS = 39  # controls; one of them may be as extreme
ODD = 1
CAPABLE = 0.25  # lower bound of `found` on clean samples; was 0.5, see *Amended* in rules.md
ACTS = 0.10  # median ||v_d - v|| / ||v||
LACKS = -0.1  # doublings of amt: a base below it lacks detail
SIGMAS = (0.3, 0.5, 0.7)  # of one step, where an edit is judged
LAYOUT = 0.95  # correlation of the low band with the clean one's
WEAK = -0.25  # (a) amt_c of a weak model, at most
DETAIL = 0.10  # (b) change of amt_c, more than
RIGHT, LOW, MARGIN = -0.02, -0.01, -0.05  # (b) not lost: right, low, margin as a share of the base's
MORE, EQUAL = 0.005, 0.01  # (c) of right
MONOTONE = 0.8  # of the curve
STEPS = 10  # of a sample
WEIGHTS = (0.125, 0.25, 0.5)  # w of zeroing is one of them
RHOS = (0.0, 0.5, 1.0, 1.5, 2.0)  # of the curve
GAINS = (1.1, 1.2, 1.3, 1.5)
SCALES = (1.5, 2.0)  # of CFG; (d) takes the first
DAEMON = 1.0
NOISE = (0.1, 0.3, 0.5, 0.7, 0.9)  # levels at which the channels are looked at
CONTROL_CAPTIONS = 12

# a model without references: see *A model of your own* in rules.md
DENOISED = 0.5  # share of ||noise - x||^2 that one step leaves, less than
COARSER = -2.0  # doublings of high over low band, clean samples against decoded noise, less than
BEYOND = 0.05  # (c) doublings of amt_c beyond the guidance's own gain, more than
OWN_MARGIN = 0.0  # (b) of the margin among the base's own samples, above
OWN_CFG = 3.0  # (d), and the base with guidance


@dataclass(frozen=True)
class Size:
    """How much is measured; `splits` are the parts of the captions."""

    name: str
    splits: Sizes
    channel_seeds: int = 2
    draws: int = DRAWS
    control_captions: int = CONTROL_CAPTIONS
    chunk: int = 12


FULL = Size("full", Sizes(12, 16, 24, 48))
SMALL = Size("small", Sizes(12, 16, 24, 24), control_captions=6, chunk=6)  # the null column
QUICK = Size("quick", Sizes(6, 6, 8, 12), channel_seeds=1, draws=DRAWS, control_captions=6, chunk=6)
TOY = Size("toy", Sizes(2, 2, 4, 4), draws=2, control_captions=2, chunk=2)
SIZES = {size.name: size for size in (FULL, SMALL, QUICK, TOY)}

Direction = Literal["above", "below"]


@dataclass(frozen=True)
class Claim:
    """One claim about the channels: which number, and its bound.

    Attributes:
        key: short and unique. text: as it is tested. section: of the paper.
        direction, margin, unit: the bound.
        controls: it has control channels. by_block: it is tested at each block.
    """

    key: str
    section: str
    text: str
    direction: Direction
    margin: float
    unit: str
    controls: bool = False
    by_block: bool = False


CHANNELS = (
    Claim("stands out", "1", "Some channels stand far out from the median channel.", "above", 5.0, "x the median"),
    Claim("every token", "1", "They are large on every image token.", "above", 0.95, "of tokens", controls=True),
    Claim("one sign", "1", "They have one sign.", "above", 0.95, "of tokens", controls=True),
    Claim("constant", "1", "They are nearly constant over tokens.", "below", 0.5, "std / mean", controls=True),
    Claim("same for every prompt", "1", "The same channel ranks first for every prompt.", "above", 0.95, "of pairs"),
    Claim("same for every noise", "1", "The same channel ranks first for every noise.", "above", 0.95, "of pairs"),
    Claim("same at every noise level", "1", "The same channel ranks first at every noise level.", "above", 0.95,
          "of pairs"),
    Claim("same in every block", "1", "The same channel ranks first in every block.", "above", 0.95, "of pairs"),
    Claim("all layers", "1", "Some channel is massive in all layers.", "above", 0.95, "of blocks"),
    Claim("gate peaks", "2", "AdaLN's residual scale peaks there, at the block that writes the channel.", "above", 0.95,
          "of channels", controls=True),
    Claim("gate makes it", "2", "Without that scale the channel is gone at the end.", "above", 0.5, "of its size",
          controls=True),
    Claim("timestep", "2", "The timestep explains how large they are.", "above", 0.5, "of variance", by_block=True),
    Claim("prompt", "2", "The prompt does not explain it.", "below", 0.1, "of variance", by_block=True),
    Claim("grows", "2", "They grow as t goes to 0.", "below", 0.0, "log2 per sigma", by_block=True),
)  # fmt: skip
WEAK_MODELS = {"zero": "zeroed, as published", "auto": "at the dose of auto's profile"}
