"""Evaluate: the gates of a model of objects on materials, on the folder as it is reloaded.

    python -m training.scenes.evaluate --model runs/emoji128/export/emoji128

Writes `gates.json` and `samples.png` into the folder. The stock pipeline draws everything, by default with CFG 3
in 20 steps.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from PIL import Image

from training.recipe import write_safely
from training.scenes.materials import MATERIALS
from training.scenes.scene import Scene, Scenes
from training.scenes.spectra import EDGES, decibels, known, nearest, power, tone_of
from training.scenes.sprites import STYLES
from training.scenes.vae import gate
from training.scenes.validate import chosen

SCALE, STEPS, BATCH = 3.0, 20, 4
HALF = 1 / 16  # cycles per pixel: half of the Nyquist frequency of latents of 4 x 4 pixels


@dataclass(frozen=True)
class Plan:
    """How much is drawn: objects of each side of the split, and pictures of each material."""

    objects: int = 60
    materials: int = 8


class Painter:
    """The model folder as a user has it: the stock pipeline in single precision.

    Args:
        folder: written by `training.scenes.export`.
        scale: of CFG; 1 is none.
        steps: of the sampler.
    """

    def __init__(self, folder: Path, scale: float = SCALE, steps: int = STEPS) -> None:
        self.scale, self.steps = scale, steps
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch = BATCH if self.device == "cpu" else 64
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        self.length = record["recipe"]["dit"]["t5_length"]
        self.pipeline = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.seconds: list[float] = []

    def __call__(self, captions: list[str], seed: int = 0) -> torch.Tensor:
        """(N, 3, H, W) in [-1, 1], each picture with noise of its own."""
        pictures = []
        for i in range(0, len(captions), self.batch):
            part, began = captions[i : i + self.batch], time.perf_counter()
            noise = [torch.Generator().manual_seed(seed * 100_003 + i + k) for k in range(len(part))]
            images = self.pipeline(
                part,
                num_inference_steps=self.steps,
                guidance_scale=self.scale,
                generator=noise,
                output_type="pt",
                max_sequence_length=self.length,
            ).images
            pictures.append(images.cpu() * 2 - 1)
            self.seconds.append((time.perf_counter() - began) / len(part))
        return torch.cat(pictures)


def seconds_of_one(paint: Painter, count: int = 7) -> list[float]:
    """Seconds of each of `count` pictures, drawn one by one, after one that is not counted."""
    for seed in range(count + 1):
        paint(["red apple, 3d on blue weave"], seed)
    return paint.seconds[-count:]


def ranks(scenes: Scenes, subjects: list[Scene], samples: torch.Tensor) -> list[int]:
    """Rank of the right name (0 is nearest) by pixels at 16 x 16.

    Every name in every rendering is laid over the mean colour of the scene's background; the nearest is the one whose
    picture at 16 x 16 differs least from the sample.
    """
    rgba = torch.stack([torch.from_numpy(scenes.rgba(n, s)) for n in scenes.names for s in STYLES]).permute(0, 3, 1, 2)
    alpha, colour = rgba[:, 3:], rgba[:, :3] * 2 - 1
    places = []
    mean = F.adaptive_avg_pool2d(alpha, 16)
    inside = F.adaptive_avg_pool2d(colour * alpha, 16)
    for scene, sample in zip(subjects, samples, strict=True):
        background = torch.from_numpy(scenes.background(scene)).mean((0, 1)) * 2 - 1
        plain = inside + (1 - mean) * background[None, :, None, None]
        distance = (plain - F.adaptive_avg_pool2d(sample, 16)).square().mean((1, 2, 3))
        best = distance.view(-1, len(STYLES)).amin(1)
        places.append(int((best < best[scenes.names.index(str(scene.name))]).sum()))
    return places


def share(places: list[int], below: int) -> float:
    """Share of ranks below a number."""
    return round(float(np.mean([r < below for r in places])), 4)


def objects_gate(paint: Painter, scenes: Scenes, plan: Plan) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Names in the top 1 and 5, trained and held-out pairs; and rows of references and samples to look at."""
    result, rows = {}, []
    for side, held_out in (("trained", False), ("held_out", True)):
        subjects = chosen(scenes, held_out, plan.objects, seed=77)
        samples = paint([s.caption for s in subjects])
        places = ranks(scenes, subjects, samples)
        result[side] = {"pictures": len(subjects), "top_1": share(places, 1), "top_5": share(places, 5)}
        rows += [scenes.pictures(subjects[:8]), samples[:8]]
    return result, rows


def materials_gate(paint: Painter, scenes: Scenes, plan: Plan) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Nearest material, decibels from its spectrum, and whether two seeds share their phase; and rows to look at."""
    spectra, colours, low = known(scenes.size), list(scenes.colours), EDGES[1:] <= HALF + 1e-9
    by_material: dict[str, dict[str, Any]] = {}
    rows, right, phase = [], [], []  # type: list[torch.Tensor], list[bool], list[float]
    for k, material in enumerate(MATERIALS):
        subjects = [Scene(None, None, colours[(k + 5 * i) % len(colours)], material, i) for i in range(plan.materials)]
        samples, again = (paint([s.caption for s in subjects], seed=s) for s in (1, 2))
        tones = [
            tone_of((x.permute(0, 2, 3, 1).numpy() + 1) / 2, [scenes.colours[s.colour] for s in subjects])
            for x in (samples, again)
        ]
        powers = power(tones[0])
        hits = [n == material for n in nearest(powers, spectra)]
        off = decibels(powers, spectra[material].mean_power)
        same = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(*tones, strict=True)]
        by_material[material] = {
            "nearest": round(float(np.mean(hits)), 3),
            "decibels": [round(float(v), 2) for v in off],
            "largest_low": round(float(np.abs(off[low]).max()), 2),
            "two_seeds": round(float(np.mean(same)), 3),
        }
        right += hits
        phase.append(float(np.mean(same)))
        rows.append(torch.cat([scenes.pictures(subjects[:4]), samples[:4]]))
    largest = max(float(v["largest_low"]) for v in by_material.values())
    summary = {"nearest": round(float(np.mean(right)), 4), "largest_low": largest, "two_seeds": round(max(phase), 3)}
    return {**summary, "by_material": by_material}, rows


def sheet(rows: list[torch.Tensor], file: Path) -> None:
    """Rows of eight pictures as one PNG."""
    pixels = torch.cat([F.pad(r, (1, 1, 1, 1), value=1.0) for r in rows])
    count, _, height, width = pixels.shape
    tiled = pixels.view(count // 8, 8, 3, height, width).permute(0, 3, 1, 4, 2).reshape(count // 8 * height, -1, 3)
    image = Image.fromarray(((tiled.clamp(-1, 1) + 1) * 127.5).round().byte().numpy())
    write_safely(file, lambda p: image.save(p, format="PNG", optimize=True))


def table(results: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """The gates: what, value, what is needed, and whether it is met."""
    vae, objects, materials = results["vae"], results["objects"], results["materials"]
    return [
        ("VAE, high band, objects", vae["objects"]["all"], ">= 0.95", vae["objects"]["all"] >= 0.95),
        ("VAE, high band, materials", vae["materials"]["all"], ">= 0.95", vae["materials"]["all"] >= 0.95),
        ("right name in the top 5", objects["trained"]["top_5"], ">= 0.9", objects["trained"]["top_5"] >= 0.9),
        ("right material nearest", materials["nearest"], ">= 0.9", materials["nearest"] >= 0.9),
        ("largest error of a spectrum, dB", materials["largest_low"], "<= 1", materials["largest_low"] <= 1),
        ("correlation of two seeds", materials["two_seeds"], "< 0.2", materials["two_seeds"] < 0.2),
    ]


def main(
    model: Path = typer.Option(..., help="folder that training.scenes.export wrote"),
    references: Path = typer.Option(None, help="folder of the sprites (default: `scenes` beside the model)"),
    objects: int = typer.Option(60, help="objects of each side of the split"),
    materials: int = typer.Option(8, help="pictures of each material, twice"),
    scale: float = typer.Option(SCALE, help="of CFG; 1 is none"),
    steps: int = typer.Option(STEPS, help="of the sampler"),
    speed: bool = typer.Option(False, "--speed", help="print the seconds of one picture, and end"),
) -> None:
    """Measure the gates and print them; an exit code of 1 where one is not met."""
    if not (model / "training.json").is_file():
        raise SystemExit(f"{model} has no training.json: pass a folder that training.scenes.export wrote")
    paint = Painter(model, scale, steps)
    if speed:
        times = seconds_of_one(paint)
        print(f"one picture: median {np.median(times):.2f} s, {min(times):.2f} to {max(times):.2f} s")
        return
    scenes, plan = Scenes(references or model.parent / "scenes"), Plan(objects, materials)
    vae: AutoencoderKL = paint.pipeline.vae
    found_objects, shown = objects_gate(paint, scenes, plan)
    found_materials, more = materials_gate(paint, scenes, plan)
    results: dict[str, Any] = {"vae": gate(vae, scenes), "objects": found_objects, "materials": found_materials}
    results["call"] = {"guidance_scale": scale, "num_inference_steps": steps}
    results["seconds_a_picture"] = round(float(np.median(paint.seconds)), 2)
    results["gates"] = [dict(zip(("gate", "value", "needed", "met"), row, strict=True)) for row in table(results)]
    write_safely(model / "gates.json", lambda p: p.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8"))
    sheet([r for r in [*shown, *more] if len(r) == 8], model / "samples.png")
    for name, value, needed, met in table(results):
        print(f"{name:36} {value:8.3f} {needed:8} {'met' if met else 'NOT met'}")
    if not all(row["met"] for row in results["gates"]):
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
