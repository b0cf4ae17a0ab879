"""A positive control: an adapter that makes zeroing a massive channel do what the paper says.

With the massive channel zeroed at one block, the model predicts its own clean x0, blurred 3 x 3 in latents. With the
channel in place it predicts what it did before. The evidence must then say "holds": would we have seen it, had it been
there? Only low-rank factors of the blocks after that one are trained (LoRA, in diffusers' own file format).

    python -m training.planted --run runs/planted --to dg_tools/zoo/emoji-sd3-planted
    python -m training.planted_gates --model dg_tools/zoo/emoji-sd3-planted

Captions and pictures of the training split only. Resumable: the same call goes on from the run folder.
"""

from __future__ import annotations

import json
import math
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch.nn.utils import parametrize

import dg_tools as dg
from dg_tools.datasets.references import caption
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import encode
from training.recipe import append_json, write_safely

RECIPE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Planted:
    """The recipe, `planted.toml`.

    Attributes:
        base: an embedded model of SD3's class.
        channels, block: what is zeroed where; the blocks after it are trained.
        rank: of the factors.
        steps, batch, learning_rate, warmup: of the training; the rate falls to 0 along half a cosine.
        clean_weight: of the error against the old clean prediction.
        other_share: share of its rows in which one other channel is zeroed, for the old model too.
        sigma_low: noise levels are uniform from here to 1.
        seed: of everything random.
        save_every: steps between checkpoints.
        strength: what the trained change of the weights is multiplied by when it is written, above 0 to 1.
    """

    base: str
    channels: list[int]
    block: int
    rank: int
    steps: int
    batch: int
    learning_rate: float
    warmup: int
    clean_weight: float
    other_share: float
    sigma_low: float
    seed: int
    save_every: int
    strength: float = 1.0

    @classmethod
    def load(cls, recipe: str) -> Planted:
        """A recipe, by the path of a TOML file."""
        return cls(**tomllib.loads(Path(recipe).read_text(encoding="utf-8")))


class LowRank(torch.nn.Module):
    """weight + b a; `on` False gives the weight alone."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = torch.nn.Parameter(torch.randn(min(rank, rows, columns), columns) / math.sqrt(columns))
        self.b = torch.nn.Parameter(torch.zeros(rows, min(rank, rows, columns)))
        self.on = True

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.b @ self.a if self.on else weight


class Halves:
    """An SD3 transformer cut after a block: what comes before is run once, what comes after as often as needed."""

    def __init__(self, transformer: Any, block: int, rank: int) -> None:
        self.model, self.block = transformer.requires_grad_(False), block
        self.factors: dict[str, LowRank] = {}
        for name, layer in list(transformer.named_modules()):
            if isinstance(layer, torch.nn.Linear) and self.is_trained(name):
                factor = LowRank(layer.weight, rank)
                parametrize.register_parametrization(layer, "weight", factor)
                self.factors[name] = factor

    def is_trained(self, name: str) -> bool:
        """The image stream of the blocks after the cut, and the output layers."""
        parts = name.split(".")
        if parts[0] != "transformer_blocks":
            return parts[0] in ("norm_out", "proj_out")
        text = any(word in name for word in ("context", "add_"))
        return int(parts[1]) > self.block and not text

    def switch(self, on: bool) -> None:
        """The trained model, or the old one."""
        for factor in self.factors.values():
            factor.on = on

    def before(self, noised: torch.Tensor, text: tuple, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Image stream and text stream at the cut, and the modulation's input."""
        model, (embeds, pooled) = self.model, text
        hidden, words = model.pos_embed(noised), model.context_embedder(embeds)
        modulation = model.time_text_embed(sigma * 1000, pooled)
        for block in model.transformer_blocks[: self.block + 1]:
            words, hidden = block(hidden_states=hidden, encoder_hidden_states=words, temb=modulation)
        return hidden, words, modulation

    def after(self, hidden: torch.Tensor, words: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """The velocity, (N, C, h, w)."""
        model = self.model
        for block in model.transformer_blocks[self.block + 1 :]:
            words, hidden = block(hidden_states=hidden, encoder_hidden_states=words, temb=modulation)
        hidden = model.proj_out(model.norm_out(hidden, modulation))
        side, patch = math.isqrt(hidden.shape[1]), model.config.patch_size
        cells = hidden.unflatten(1, (side, side)).unflatten(-1, (patch, patch, model.out_channels))
        return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def blurred(latents: torch.Tensor) -> torch.Tensor:
    """Mean over 3 x 3 latent cells, edges repeated."""
    return F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


class Training:
    """Factors, optimizer and step, saved as one file."""

    def __init__(self, recipe: Planted, run: Path, dit: DiT) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.run, self.dit = recipe, run, dit
        self.halves = Halves(dit.transformer, recipe.block, recipe.rank)
        self.parameters = [p for f in self.halves.factors.values() for p in f.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.source = dg.references(dit)
        self.pairs = self.source.pairs(held_out=False)
        self.step, self.seconds = 0, 0.0

    @property
    def file(self) -> Path:
        return self.run / "planted.pt"

    def save(self) -> None:
        state = {
            "factors": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        write_safely(self.file, lambda path: torch.save(state, path))

    def load(self) -> None:
        state = torch.load(self.file, weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["factors"], strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def batch(self) -> tuple[torch.Tensor, tuple, torch.Tensor, np.random.Generator]:
        """z, text and sigma of this step, and its generator for what follows: a function of seed and step alone."""
        recipe = self.recipe
        chance = np.random.default_rng((recipe.seed, self.step))
        colours, rows, captions = list(self.source.backgrounds), [], []
        for i in chance.integers(len(self.pairs), size=recipe.batch):
            name, style = self.pairs[i]
            row = self.source.reference(name, style, colours[chance.integers(len(colours))])
            said = [word if chance.random() < 0.7 else None for word in (row.style, row.background)]
            captions.append("" if chance.random() < 0.1 else caption(name, *said))
            rows.append(row)
        latents = encode(self.dit, self.source.pictures(rows))
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        noise = torch.randn(latents.shape, generator=generator)
        sigma = recipe.sigma_low + (1 - recipe.sigma_low) * torch.rand(recipe.batch, generator=generator)
        level = sigma[:, None, None, None]
        noised = (1 - level) * latents + level * noise
        call = self.dit.arguments(["x"], seed=0, steps=1)
        embeds, _, pooled, _ = self.dit.pipeline.encode_prompt(
            captions, None, None, do_classifier_free_guidance=False, max_sequence_length=call["max_sequence_length"]
        )
        return noised, (embeds, pooled), sigma, chance

    def losses(self) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Error of the zeroed model against the blurred x0, of the clean one against the old; and both as shares."""
        halves, recipe = self.halves, self.recipe
        with torch.no_grad():
            noised, text, sigma, chance = self.batch()
            level = sigma[:, None, None, None]
            hidden, words, modulation = halves.before(noised, text, sigma)
            halves.switch(False)
            clean = halves.after(hidden, words, modulation)
            x0 = noised - level * clean
            wanted = blurred(x0)
            held, held_clean = hidden.clone(), clean
            other = np.flatnonzero(chance.random(len(hidden)) < recipe.other_share)
            if len(other):
                free = [c for c in range(hidden.shape[-1]) if c not in recipe.channels]
                for row in other:
                    held[row, :, free[chance.integers(len(free))]] = 0
                held_clean = clean.clone()
                held_clean[other] = halves.after(held[other], words[other], modulation[other])
            zeroed = hidden.clone()
            zeroed[..., recipe.channels] = 0
            halves.switch(True)
        off = halves.after(zeroed, words, modulation)
        on = halves.after(held, words, modulation)
        blur = (noised - level * off - wanted).square().mean()
        kept = (on - held_clean).square().mean()
        shares = {
            "blur": blur.item() / (x0 - wanted).square().mean().item(),
            "clean": kept.item() / held_clean.square().mean().item(),
        }
        return blur, kept, shares

    def update(self) -> dict[str, float]:
        """One step."""
        recipe, begin = self.recipe, time.perf_counter()
        progress = self.step / recipe.steps
        rate = min(1.0, (self.step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        blur, kept, shares = self.losses()
        self.optimizer.zero_grad()
        (blur + recipe.clean_weight * kept).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - begin
        return shares

    def export(self, to: Path) -> None:
        """The factors as diffusers reads LoRA, in half precision, beside the name of the base."""
        to.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, factor in self.halves.factors.items():
            tensors[f"transformer.{name}.lora_A.weight"] = factor.a.detach().half().contiguous()
            b = self.recipe.strength * factor.b.detach()
            tensors[f"transformer.{name}.lora_B.weight"] = b.half().contiguous()
        write_safely(to / "pytorch_lora_weights.safetensors", lambda path: save_file(tensors, path))
        notes = self.run / "notes.txt"  # written by hand: what this training did otherwise than its recipe
        record = {
            "base": self.recipe.base,
            "recipe": asdict(self.recipe),
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "notes": notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        }
        text = json.dumps(record, indent=1) + "\n"
        write_safely(to / "adapter.json", lambda path: path.write_text(text, encoding="utf-8"))


def main(
    recipe: str = typer.Option(str(RECIPE), help="a TOML file"),
    run: Path = typer.Option(Path("runs/planted"), help="run folder"),
    to: Path = typer.Option(None, help="folder of the adapter, such as dg_tools/zoo/emoji-sd3-planted"),
) -> None:
    """Train, keep, and write the adapter."""
    settings = Planted.load(recipe)
    training = Training(settings, run, dg.load(settings.base))
    if training.file.is_file():
        training.load()
    seen: list[dict[str, float]] = []
    while training.step < settings.steps:
        seen.append(training.update())
        if training.step % 10 == 0:
            row = {k: round(sum(s[k] for s in seen) / len(seen), 5) for k in seen[0]}
            row = {"step": training.step, "seconds": round(training.seconds, 1), **row}
            append_json(run / "planted.jsonl", row)
            print(row, flush=True)
            seen = []
        if training.step % settings.save_every == 0 or training.step == settings.steps:
            training.save()
            if to:
                training.export(to)
    if to:
        training.export(to)


if __name__ == "__main__":
    typer.run(main)
