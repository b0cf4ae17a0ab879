"""Which sentence is tested by which number?

The paper is arXiv 2510.11538; where a sentence is known from a note by a reader only, `section` says so. `part` is a
folder of results, `outcome` a name in it; the outcome carries effect, interval, the bound set beforehand, the control
in words, and its verdict. Every claim is worded as it is tested: where it fails, its opposite is not thereby shown.
Question 7 of section 5, the dose, has a table (`variants` of `denoise`) and no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "What the paper claims"
QUESTIONS = "What no source has settled"


@dataclass(frozen=True)
class Claim:
    """One row of the table.

    Attributes:
        text: the claim, as tested.
        source: `PAPER` or `QUESTIONS`.
        section: where it stands.
        part, outcome: what tests it.
    """

    text: str
    source: str
    section: str
    part: str
    outcome: str


CLAIMS: tuple[Claim, ...] = (
    # what they are
    Claim("Some channels stand far out from the median channel.", PAPER, "1", "subject", "stands out"),
    Claim("They are massive on every image token, each from its first block on.", PAPER, "1", "tokens",
          "from its onset"),
    Claim("They are massive on every image token, from the block on where all of them are massive.", PAPER, "1",
          "tokens", "every token"),
    Claim("They have one sign.", PAPER, "1", "tokens", "one sign"),
    Claim("Their value is nearly constant over tokens.", PAPER, "1", "tokens", "constant"),
    Claim("They are massive in all layers.", PAPER, "1", "tokens", "all layers"),
    Claim("They are the same channels for every prompt.", PAPER, "1", "tokens", "same over prompts"),
    Claim("They are the same channels for every noise.", PAPER, "1", "tokens", "same over seeds"),
    Claim("They are the same channels at every noise level.", PAPER, "1", "tokens", "same over steps"),
    Claim("They are the same channels in every block.", PAPER, "1", "tokens", "same over blocks"),
    # where they come from
    Claim("AdaLN's residual scale peaks in the same channels.", PAPER, "2", "timestep", "gates peak there"),
    Claim("That scale sets where they are: without it, at the block that writes a channel, it is gone.",
          PAPER, "2", "origin", "gate where it is written"),
    Claim("The timestep modulates them, not the text (the modulation of another timestep or prompt swapped in).",
          PAPER, "2", "timestep", "time over prompt"),
    Claim("The timestep explains how large they are.", PAPER, "2", "timestep", "explained by timestep"),
    Claim("The prompt does not explain it.", PAPER, "2", "timestep", "explained by prompt"),
    Claim("They grow as t goes to 0.", PAPER, "2 (a reader's note)", "timestep", "grows with less noise"),
    # what they do
    Claim("Switched off at one layer, samples lose detail.", PAPER, "3", "detail", "high_coherent"),
    Claim("Samples get blurred.", PAPER, "3", "detail", "blur"),
    Claim("What is drawn stays the same.", PAPER, "3", "detail", "found"),
    Claim("Colours and layout stay the same.", PAPER, "3", "detail", "layout"),
    Claim("It is detail that they are for: one step, zeroing hurts the high band more than equal harm elsewhere does.",
          PAPER, "3", "denoise", "selectivity"),
    Claim("Zeroing other channels does less.", PAPER, "3", "denoise", "against_variance"),
    # Detail Guidance
    Claim("DG gives more of the right amount of detail, without CFG.", PAPER, "4", "guidance", "amount, without CFG"),
    Claim("DG gives right detail, without CFG.", PAPER, "4", "guidance", "rightness, without CFG"),
    Claim("DG on top of CFG gives more of the right amount of detail.", PAPER, "4", "guidance", "amount"),
    Claim("DG on top of CFG gives right detail.", PAPER, "4", "guidance", "rightness"),
    # section 5 of the questions, in its order
    Claim("Does zeroing hurt the high band more than the low one at all?", QUESTIONS, "5.1", "denoise",
          "selectivity_alone"),
    Claim("Is the token mean instead of zero a no-op?", QUESTIONS, "5.2", "denoise", "mean_no_op"),
    Claim("Is the damage left where LayerNorm keeps its statistics?", QUESTIONS, "5.3", "denoise", "norms_share"),
    Claim("Does rescaling the others alone do less than half of it?", QUESTIONS, "5.3", "denoise", "rescale_share"),
    Claim("Does DG buy more right detail than guiding away from a blurred prediction?", QUESTIONS, "5.4",
          "guidance", "rightness, beside blur"),
    Claim("Does DG buy more right detail than auto-guidance by a noised copy of the model?", QUESTIONS, "5.4",
          "guidance", "rightness, beside noised twin"),
    Claim("Is DG hidden CFG?", QUESTIONS, "5.5", "guidance", "hidden CFG"),
    Claim("Without its part along CFG, does DG buy as much?", QUESTIONS, "5.5", "guidance",
          "rightness, CFG direction removed"),
    Claim("Disrupted on some tokens only, is detail lost there only?", QUESTIONS, "5.6", "detail", "local_detail"),
    Claim("Does the picture change there more than elsewhere?", QUESTIONS, "5.6", "detail", "local_change"),
    Claim("Does removing the mean alone do most of the damage?", QUESTIONS, "5.8", "denoise", "dc_share"),
    Claim("Does one block write most of it?", QUESTIONS, "5.9", "origin", "one block writes it"),
    Claim("Is it the gates of that block, and not of others?", QUESTIONS, "5.9", "origin",
          "gate there, not elsewhere"),
    Claim("Once zeroed, does it stay small?", QUESTIONS, "5.9", "origin", "does not heal"),
    Claim("Does a larger share of the change lie along shaded - flat than of equal harm elsewhere?", QUESTIONS,
          "5.10", "denoise", "detail_axis_share"),
    Claim("Under one window and at equal block calls, does DG buy right detail?", QUESTIONS, "5.11", "guidance",
          "rightness, both within one window"),
    Claim("Are the channels massive on more image tokens than text tokens?", QUESTIONS, "1", "tokens",
          "image over text"),
)  # fmt: skip
