"""Have `auto` choose a weak model that lacks detail, and measure it on held-out captions: `profile.json`.

    python -m training.weak_model --model dg_tools/zoo/emoji-sd3

The profile says what was chosen, on which numbers, and what it is worth on captions that were used for nothing else.
`training.evaluate` does the same and writes the card; this command chooses again and leaves the card as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dg_tools as dg
from dg_tools.datasets.references import References
from dg_tools.guidance.auto import auto_profile, measured_on
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import write_profile
from dg_tools.models.provenance import provenance

CAPTIONS = 16


def chosen(
    dit: DiT,
    source: References,
    count: int = CAPTIONS,
    *,
    otherwise: Sequence[int],
    seed: int = 7,
    progress: bool = True,
) -> dict[str, Any]:
    """The profile of `auto`, measured on captions whose pictures were held out of training.

    Args:
        dit: the exported model.
        source: its references.
        count, seed: of the captions.
        otherwise: channels to name, without a block, where `auto` finds none massive.
        progress: show bars.
    """
    try:
        profile = auto_profile(dit, cache=False, progress=progress)
    except RuntimeError as error:  # no channel is massive
        about = {name: provenance(dit)[name] for name in ("model", "weights", "dtype")}
        verdict = f"no block is named: {error}"
        return {
            **about,
            "channels": list(otherwise),
            "block": None,
            "source": "training.weak_model",
            "verdict": verdict,
        }
    if profile["block"] is not None:
        captions = [reference.prompt for reference in source.sample(count, seed=seed, held_out=True)]
        profile["measured"] = measured_on(dit, profile, captions, progress=progress)
    return profile


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model's folder")
    parser.add_argument("--captions", type=int, default=CAPTIONS, help="how many held-out captions it is measured on")
    arguments = parser.parse_args()
    model = dg.load(arguments.model)
    known = (model.profile or {}).get("channels", [])
    made = chosen(model, dg.references(model), arguments.captions, otherwise=known)
    print(write_profile(arguments.model / "profile.json", made))
