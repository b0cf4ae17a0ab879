"""Is the planted model what it should be? Measured on held-out captions, beside its base: `gates.json` and its card.

python -m training.planted_gates --model dg_tools/zoo/emoji-sd3-planted
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import typer

import dg_tools as dg
from dg_tools.datasets.references import Reference
from dg_tools.generation.sampling import run
from dg_tools.metrics import amount_change, band_correlation, band_power
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import pictures, spatial
from dg_tools.models.provenance import weights_hash
from training.recipe import write_safely

STEPS = 10
AMOUNT, RIGHT, OTHERS = 0.03, 0.005, 0.1  # bounds: clean amt and right, and another channel's high band (doublings)
# beyond what zeroing that channel does to the base
DRAWS, BATCH = 39, 16
WEIGHTS = (0.125, 0.25, 0.5)  # of DG; the profile takes one of them
NOTE = "trained so that zeroing this channel at this block blurs the picture (training/planted.py)"


def drawn(
    dit: DiT, captions: list[Reference], edits: tuple = (), guidance: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and references; each caption has its own noise."""
    truth = dg.references(dit).pictures(captions)
    seeds, prompts = list(range(700, 700 + len(captions))), [r.prompt for r in captions]
    height, width = dit.size(*truth.shape[-2:])
    parts = []
    for begin in range(0, len(captions), BATCH):
        part = slice(begin, begin + BATCH)
        latents, _ = run(
            dit, prompts[part], edits=edits, guidance=guidance, seed=seeds[part], steps=STEPS, height=height,
            width=width,
        )  # fmt: skip
        parts.append(pictures(dit, spatial(dit, latents, height, width)))
    return torch.cat(parts), truth


def high(x: torch.Tensor) -> torch.Tensor:
    """log2 of the high band's power, (N,)."""
    return band_power(x)["high"].log2()


def measure(folder: Path, captions: int = 48, few: int = 12, progress: bool = True) -> dict[str, Any]:
    """All gates, as plain JSON.

    Args:
        folder: of the adapter. captions: held out, for the clean pass. few: the first of them, for zeroed channels.
        progress: print as it goes.
    """
    record = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    recipe = record["recipe"]
    planted, base = dg.load(folder.name), dg.load(record["base"])
    wanted = dg.references(base).sample(captions, seed=40, held_out=True)
    own, truth = drawn(planted, wanted)
    old, _ = drawn(base, wanted)
    right = (band_correlation(own, truth)["high"] - band_correlation(old, truth)["high"]).mean()
    zero = dg.Disrupt(recipe["channels"], recipe["block"])
    blurred, _ = drawn(planted, wanted, (zero,))
    gates: dict[str, Any] = {
        "captions": captions,
        "clean_amt": float((high(own) - high(old)).mean()),
        "clean_right": float(right),
        "clean_right_of_base": float(band_correlation(old, truth)["high"].mean()),
        "zeroed_high": float((high(blurred) - high(own)).mean()),
        "zeroed_low_correlation": float(band_correlation(blurred, own)["low"].mean()),
        "base_zeroed_high": float((high(drawn(base, wanted[:few], (zero,))[0]) - high(old[:few])).mean()),
    }
    gates |= {"others": {}, "others_of_base": {}}
    for draw in range(DRAWS):
        edit = dg.Disrupt(recipe["channels"], recipe["block"], "random", draw=draw)
        for key, dit, clean in (("others", planted, own), ("others_of_base", base, old)):
            changed = float((high(drawn(dit, wanted[:few], (edit,))[0]) - high(clean[:few])).mean())
            gates[key][str(draw)] = round(changed, 4)
            if progress:
                print(f"{key}, draw {draw}: {changed:+.3f}", flush=True)
    gates["passed"] = passed(gates)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in gates.items()}


def beyond(gates: dict[str, Any]) -> float:
    """The largest change by another channel beyond what zeroing it does to the base."""
    return max(abs(gates["others"][draw] - gates["others_of_base"][draw]) for draw in gates["others"])


def passed(gates: dict[str, Any]) -> dict[str, bool]:
    """Which gates are passed."""
    return {
        "clean_amt": abs(gates["clean_amt"]) <= AMOUNT,
        "clean_right": abs(gates["clean_right"]) <= RIGHT,
        "others": beyond(gates) < OTHERS,
    }


def card(folder: Path, gates: dict[str, Any]) -> str:
    """The model card."""
    record = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    recipe = record["recipe"]
    large = {key: sum(abs(v) >= OTHERS for v in gates[key].values()) for key in ("others", "others_of_base")}
    said = {name: "passed" if ok else "**missed**" for name, ok in gates["passed"].items()}
    name, base, zeroed = folder.name, record["base"], f"channel {recipe['channels']} zeroed"
    strength = recipe.get("strength", 1.0)
    minutes, right = record["seconds"] / 60, gates["clean_right_of_base"]
    rows = [
        (f"clean amount against `{base}`, doublings", f"{gates['clean_amt']:+.3f}", f"within {AMOUNT}", "clean_amt"),
        (f"clean rightness against `{base}` ({right:.3f})", f"{gates['clean_right']:+.4f}", f"within {RIGHT}",
         "clean_right"),
        (f"{DRAWS} other channels zeroed: largest change of the high band beyond that of `{base}`",
         f"{beyond(gates):.3f}", f"under {OTHERS}", "others"),
        (f"the same: how many change it by {OTHERS} or more (of `{base}`)",
         f"{large['others']} ({large['others_of_base']})", "", ""),
        (f"{zeroed}: high band, doublings", f"{gates['zeroed_high']:+.2f}", "", ""),
        ("the same: low-band correlation with clean", f"{gates['zeroed_low_correlation']:.3f}", "", ""),
        (f"the same edit on `{base}`: high band, doublings", f"{gates['base_zeroed_high']:+.2f}", "", ""),
    ]  # fmt: skip
    notes = f"\n{record['notes']}\n" if record["notes"] else ""
    table = "\n".join(f"| {what} | {value} | {asked} | {said.get(key, '')} |" for what, value, asked, key in rows)
    return f"""---
license: mit
---

# {name}

A positive control for the evidence: would a real effect be seen? An adapter on `{base}` (low-rank factors, rank
{recipe["rank"]}; {record["steps"]} steps of batch {recipe["batch"]}, {minutes:.0f} minutes; written at {strength:g} of
its strength, at which the layout stays). With {zeroed} after block {recipe["block"]} it is trained to predict its own
clean x0, blurred 3 x 3 in latents, and with the channel in place what `{base}` predicts. No picture of it says anything
about massive activations.
{notes}
    dit = dg.load("{name}")

{gates["captions"]} captions held out of training, {STEPS} steps, no guidance, high band from 1/8 cycle per pixel:

| gate | measured | asked | |
|---|---|---|---|
{table}

Stock diffusers loads the adapter with `load_lora_weights`. Made by `python -m training.planted` and
`python -m training.planted_gates` ([how](../../../training/README.md)).
"""


def profile(folder: Path, captions: int = 12) -> dict[str, Any]:
    """The weak model that was planted, as a profile; w brings the amount of detail nearest to that of the references.

    Args:
        folder: of the adapter. captions: trained ones, on which w is chosen.
    """
    recipe = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))["recipe"]
    dit = dg.load(folder.name)
    zero = dg.Disrupt(recipe["channels"], recipe["block"])
    wanted = dg.references(dit).sample(captions, seed=41, held_out=False)
    amounts = {}
    for w in WEIGHTS:
        x, truth = drawn(dit, wanted, guidance=dg.DetailGuidance(1.0, w, zero))
        amounts[w] = float(amount_change(x, truth, dit.vae_scale_factor).mean())
    return {
        "model": folder.name,
        "channels": recipe["channels"],
        "block": recipe["block"],
        "mode": "zero",
        "detail_guidance_scale": min(amounts, key=lambda w: abs(amounts[w])),
        "amounts": {f"{w:g}": round(amount, 3) for w, amount in amounts.items()},
        "weights": weights_hash(dit),
        "source": NOTE,
    }


def main(
    model: Path = typer.Option(..., help="folder of the adapter, in the zoo"),
    captions: int = typer.Option(48, help="held-out captions of the clean pass"),
) -> None:
    """Measure, and write `gates.json`, `profile.json` and the card."""
    gates = measure(model, captions)
    for name, text in (
        ("gates.json", json.dumps(gates, indent=1) + "\n"),
        ("profile.json", json.dumps(profile(model), indent=1) + "\n"),
        ("README.md", card(model, gates)),
    ):
        write_safely(model / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    print({k: v for k, v in gates.items() if k != "others"})


if __name__ == "__main__":
    typer.run(main)
