"""Have `auto` choose a weak model that lacks detail, and measure it on held-out captions: `weak_model.json`.

    python -m training.weak_model --model dg_tools/zoo/emoji-sd3

The file says what was chosen, on which numbers, and what it is worth on captions that were used for nothing else.
`DetailGuidance(disrupt="auto")` on these weights takes it from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dg_tools as dg
from dg_tools.guidance.auto import auto_profile, measured_on
from dg_tools.guidance.auto.store import SHIPPED
from dg_tools.models.profiles import write_profile


def weak_model(model: Path, count: int = 16, seed: int = 7, progress: bool = True) -> Path:
    """Choose, measure on `count` captions whose pictures were held out of training, and write the file into the folder.

    Args:
        model: an exported model's folder with its references beside it.
        count, seed: of the captions.
        progress: show bars.
    """
    dit = dg.load(model)
    profile = auto_profile(dit, cache=False, progress=progress)
    if profile["block"] is not None:
        captions = [reference.prompt for reference in dg.references(dit).sample(count, seed=seed, held_out=True)]
        profile["measured"] = measured_on(dit, profile, captions, progress=progress)
    return write_profile(model / SHIPPED, profile)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model's folder")
    parser.add_argument("--captions", type=int, default=16, help="how many held-out captions it is measured on")
    arguments = parser.parse_args()
    print(weak_model(arguments.model, arguments.captions))
