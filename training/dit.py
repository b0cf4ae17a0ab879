"""DiT: a transformer of SD3's or FLUX.1's class and its text encoders, from random weights, by rectified flow.

As SD3 was trained: sigma from a logit-normal (the recipe sets its mean and width), z = (1 - sigma) x + sigma noise, and
the network predicts noise - x. AdaLN starts at zero (gates, output projection), which diffusers does not do by itself.
No weight decay, a constant rate and an exponential average of the weights, so that a run can be stopped and taken up
anywhere. What is random in step n depends on the seed and n alone.

    python -m training.dit --recipe cpu --run runs/cpu
    python -m training.dit --recipe cpu --run runs/cpu --warm-start dg_tools/zoo/emoji-sd3
"""

from __future__ import annotations

import dataclasses
import json
import platform
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file
from tqdm.auto import tqdm

from dg_tools.datasets.references import STYLES, References, caption
from training.architectures import ARCHITECTURES
from training.average import Averaged
from training.data import BACKGROUNDS
from training.recipe import Recipe, append_csv, append_json, write_safely

VALIDATION_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)


class Pairs:
    """Latents with captions; `batch(n)` is a function of the seed and n alone."""

    def __init__(self, references: References, latents: torch.Tensor, recipe: Recipe) -> None:
        self.references = references
        self.latents = latents
        self.recipe = recipe
        self.index = {name: i for i, name in enumerate(references.names)}
        self.train = references.pairs(held_out=False)
        self.held_out = references.pairs(held_out=True)
        self.colours = list(BACKGROUNDS)

    def rows(self, rows: list[tuple[str, str, str]]) -> torch.Tensor:
        index = [(self.index[n], STYLES.index(s), self.colours.index(b)) for n, s, b in rows]
        return torch.stack([self.latents[i] for i in index]).float()

    def batch(self, step: int) -> tuple[torch.Tensor, list[str], torch.Tensor, torch.Tensor]:
        """Latents, captions, noise and sigma of one training step."""
        dit = self.recipe.dit
        chance = np.random.default_rng((self.recipe.seed, step))
        picked = [self.train[i] for i in chance.integers(len(self.train), size=dit.batch)]
        rows = [(n, s, self.colours[chance.integers(len(self.colours))]) for n, s in picked]
        captions = []
        for name, style, background in rows:
            full = caption(
                name, style if chance.random() < 0.5 else None, background if chance.random() < 0.7 else None
            )
            captions.append("" if chance.random() < dit.unconditional else full)
        latents = self.rows(rows)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        noise = torch.randn(latents.shape, generator=generator)
        sigma = torch.sigmoid(dit.sigma_mean + dit.sigma_std * torch.randn(dit.batch, generator=generator))
        return latents, captions, noise, sigma

    def validation(self, held_out: bool, count: int = 64) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """The same latents, full captions and noise every time."""
        chance = np.random.default_rng((self.recipe.seed, 1 + held_out, 99))
        pairs = self.held_out if held_out else self.train
        picked = [pairs[i] for i in chance.choice(len(pairs), min(count, len(pairs)), replace=False)]
        rows = [(n, s, self.colours[chance.integers(len(self.colours))]) for n, s in picked]
        latents = self.rows(rows)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(self.recipe.seed + 7 + held_out))
        return latents, [caption(*row) for row in rows], noise


def velocity_loss(model: Any, training: Training, batch: tuple) -> torch.Tensor:
    """Mean squared error of the predicted velocity noise - x."""
    latents, captions, noise, sigma = batch
    device, level = training.device, sigma[:, None, None, None]
    noised = ((1 - level) * latents + level * noise).to(device)
    predicted = training.kind.velocity(model, noised, training.text(captions, device), sigma.to(device))
    return F.mse_loss(predicted, (noise - latents).to(device))


@torch.no_grad()
def validate(training: Training, pairs: Pairs) -> dict[str, float]:
    """Loss on fixed trained and held-out pairs, mean over five noise levels."""
    result = {}
    for held_out, key in ((False, "trained"), (True, "held_out")):
        latents, captions, noise = pairs.validation(held_out)
        losses = [
            velocity_loss(
                training.transformer, training, (latents, captions, noise, torch.full((len(latents),), s))
            ).item()
            for s in VALIDATION_SIGMAS
        ]
        result[key] = sum(losses) / len(losses)
    return result


@torch.no_grad()
def outliers(training: Training, pairs: Pairs) -> list[dict[str, Any]]:
    """By block and sigma: the channel with the largest mean |x| over image tokens, and how it stands out."""
    latents, captions, noise = pairs.validation(held_out=False, count=16)
    model, device = training.transformer, training.device
    text = training.text(captions, device)
    rows: list[dict[str, Any]] = []
    for sigma in VALIDATION_SIGMAS:
        seen: list[torch.Tensor] = []

        def keep(module: Any, inputs: Any, output: tuple, seen: list = seen) -> None:
            seen.append(output[1])

        handles = [b.register_forward_hook(keep) for b in training.kind.blocks(model)]
        noised = ((1 - sigma) * latents + sigma * noise).to(device)
        training.kind.velocity(model, noised, text, torch.full((len(latents),), sigma, device=device))
        for handle in handles:
            handle.remove()
        for block, hidden in enumerate(seen):
            size = hidden.abs().mean((0, 1))
            top = int(size.argmax())
            values = hidden[..., top]
            rows.append(
                {
                    "step": training.step,
                    "sigma": sigma,
                    "block": block,
                    "channel": top,
                    "mean_abs": round(size[top].item(), 4),
                    "ratio": round((size[top] / size.median()).item(), 3),
                    "energy_share": round((values.square().sum() / hidden.square().sum()).item(), 4),
                    "same_sign": round(max((values > 0).float().mean().item(), (values < 0).float().mean().item()), 4),
                    "variation": round((values.std(1) / values.mean(1).abs()).median().item(), 3),
                }
            )
    return rows


def checkpoints(steps: int) -> list[int]:
    """Eight log-spaced steps at which the outlier channels are measured."""
    return sorted({round(s) for s in np.geomspace(max(1, steps // 128), steps, 8)})


def machine(device: str) -> str:
    """The machine in words, for the model card."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{name}, {platform.machine()}, torch {torch.__version__}"


class Training(Averaged):
    """Weights, their average, optimizer state and step; saved as one file, safely."""

    def __init__(self, recipe: Recipe, run: Path, device: str) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.run = run
        self.device = device
        words = json.loads((run / "words.json").read_text(encoding="utf-8"))
        self.kind = ARCHITECTURES[recipe.dit.architecture]
        self.text = self.kind.text.build(recipe, words)
        self.model = torch.nn.ModuleDict({"transformer": self.kind.build(recipe), **self.text.modules()}).to(device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.dit.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.step = 0
        self.history: list[dict[str, Any]] = []  # one row per run: steps, seconds, machine
        self.average = [p.detach().clone() for p in self.parameters]

    @property
    def transformer(self) -> torch.nn.Module:
        return self.model["transformer"]

    @property
    def file(self) -> Path:
        return self.run / "dit.pt"

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": json.dumps(self.history),
        }
        write_safely(self.file, lambda p: torch.save(state, p))

    def load(self) -> None:
        state = torch.load(self.file, weights_only=True, map_location=self.device)
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise SystemExit(f"{self.file} has another shape than recipe {self.recipe.name!r}: {error}") from None
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.history = json.loads(state["history"])

    def warm_start(self, folder: Path) -> None:
        """Take the exported weights (an average, in half precision) as weights and average; moments start at zero."""
        log = folder / "training.json"
        if not log.is_file():
            raise SystemExit(f"{folder} has no training.json: training.export did not write it")
        record = json.loads(log.read_text(encoding="utf-8"))
        for name, module in self.model.items():
            weights: dict[str, torch.Tensor] = {}
            for file in sorted((folder / name).glob("*.safetensors")):
                weights |= load_file(file)
            try:
                missing, _ = module.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
            except RuntimeError as error:
                raise SystemExit(f"{folder}/{name} has another shape than this recipe: {error}") from None
            shared = {"shared.weight", "encoder.embed_tokens.weight"}  # T5 ties these two
            if set(missing) - shared or len(shared & set(missing)) > 1:
                raise SystemExit(f"{folder}/{name} lacks {sorted(missing)[:3]}")
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = record["steps"]
        self.history = record["runs"]


def main(
    recipe: str = typer.Option("cpu", help="cpu, gpu, toy, or a TOML file"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
    warm_start: Path = typer.Option(None, help="an exported folder to go on from, where no checkpoint is kept"),
    minutes: float = typer.Option(None, help="stop after this many minutes, with a checkpoint"),
    compile: bool = typer.Option(False, help="torch.compile the transformer"),
    seed: int = typer.Option(None, help="of first weights, batches and noise, instead of the recipe's; same data"),
) -> None:
    """Train the DiT and its text encoders; resumes where it stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    settings = Recipe.load(recipe)
    if seed is not None:
        settings = dataclasses.replace(settings, seed=seed)
    run = run or Path("runs") / settings.name
    for needed, command in (("words.json", "data"), ("latents.safetensors", "vae")):
        if not (run / needed).is_file():
            raise SystemExit(f"{run / needed} is missing; run first: python -m training.{command} --recipe {recipe}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    latents = load_file(run / "latents.safetensors")["latents"]
    training = Training(settings, run, device)
    if latents.shape[3:] != (settings.vae.latent_channels, settings.latent_size, settings.latent_size):
        raise SystemExit(f"{run}/latents are {tuple(latents.shape[3:])}; recipe {recipe!r} says another size")
    if training.file.is_file():
        training.load()
    elif warm_start:
        training.warm_start(warm_start)
    pairs = Pairs(References(run / "references"), latents, settings)
    transformer = torch.compile(training.transformer) if compile else training.transformer
    began, first, total = time.perf_counter(), training.step, settings.dit.steps
    history = list(training.history)
    measure = set(checkpoints(total))

    def save() -> None:
        seconds = round(time.perf_counter() - began, 1)
        row = {"steps": training.step - first, "seconds": seconds, "seed": settings.seed, "machine": machine(device)}
        training.history = [*history, row]
        training.save()

    bar = tqdm(total=total, initial=first, desc="dit", mininterval=10)

    def look(channels: bool) -> None:
        """Validation loss of the averaged weights, and their outlier channels where these are due."""
        training.swap()
        losses = validate(training, pairs)
        append_json(run / "validation.jsonl", {"step": training.step, **losses})
        if channels:
            rows = outliers(training, pairs)
            append_csv(run / "outliers.csv", rows)
        training.swap()
        bar.set_postfix({k: f"{v:.4f}" for k, v in losses.items()})

    try:
        while training.step < total and (minutes is None or time.perf_counter() - began < 60 * minutes):
            ramp = min(1.0, (training.step + 1 - (first if warm_start else 0)) / settings.dit.warmup)
            training.optimizer.param_groups[0]["lr"] = settings.dit.learning_rate * ramp
            value = velocity_loss(transformer, training, pairs.batch(training.step))
            training.optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(training.parameters, 1.0)
            training.optimizer.step()
            training.step += 1
            training.average_in()
            bar.update()
            if training.step % 50 == 0 or training.step == total:
                seconds = round(time.perf_counter() - began, 1)
                append_json(run / "dit.jsonl", {"step": training.step, "loss": value.item(), "seconds": seconds})
            if training.step in measure or training.step % settings.dit.validate_every == 0:
                look(training.step in measure)
            if training.step % settings.dit.save_every == 0:
                save()
    except KeyboardInterrupt:
        save()
        raise SystemExit(f"interrupted at step {training.step}; kept in {training.file}") from None
    if training.step > first and training.step not in measure:
        look(channels=True)  # stopped by the clock: the last step is a checkpoint too
    save()
    print(f"step {training.step} of {total}, {training.file}")


if __name__ == "__main__":
    typer.run(main)
