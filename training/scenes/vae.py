"""VAE: a small AutoencoderKL on the scenes, its latents brought to zero mean and unit variance per channel.

    python -m training.scenes.vae --recipe emoji128 --run runs/emoji128 --warm-start dg_tools/zoo/emoji-sd3

As `training.vae`, with three differences: it may start from another model's VAE of the same shape; it trains on random
crops of 64 px, since what is hard about a material is local; and no latents are stored, since no picture comes twice.
At the end it measures its gate: the correlation of reconstructions in the high band, on objects and on materials.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from dg_tools.metrics import band_correlation
from training.recipe import append_json, write_safely
from training.scenes import keep
from training.scenes.materials import MATERIALS
from training.scenes.recipe import SceneRecipe
from training.scenes.scene import Scene, Scenes
from training.vae import build, edges, fold_statistics, loss, replace_folder

CROP = 64
BARE = 0.5  # share of pictures without an object: materials are what the autoencoder finds hard


def crops(scenes: Scenes, recipe: SceneRecipe, step: int, salt: int) -> torch.Tensor:
    """(batch, 3, 64, 64) in [-1, 1]: one crop of each of `batch` new scenes; a function of seed, step and salt."""
    settings = replace(recipe.scenes, bare=BARE)
    pictures = scenes.pictures(scenes.drawn(recipe.vae.batch, settings, (recipe.seed, salt, step)))
    side = min(CROP, recipe.size)
    generator = torch.Generator().manual_seed((recipe.seed * 1_000_003 + step) * 16 + salt)
    room = recipe.size - side
    corners = torch.randint(room // 4 + 1, (len(pictures), 2), generator=generator) * 4
    cut = [p[:, y : y + side, x : x + side] for p, (y, x) in zip(pictures, corners.tolist(), strict=True)]
    return torch.stack(cut).contiguous(memory_format=torch.channels_last)


def start(recipe: SceneRecipe, warm: Path | None) -> AutoencoderKL:
    """An untrained VAE of the recipe's shape, or that of an exported folder.

    Raises:
        SystemExit: the folder has no VAE, or one of another shape.
    """
    torch.manual_seed(recipe.seed)
    vae = build(recipe)
    if warm is not None:
        if not (warm / "vae").is_dir():
            raise SystemExit(f"{warm} has no vae: pass a model folder")
        source = AutoencoderKL.from_pretrained(warm / "vae", torch_dtype=torch.float32)
        try:
            vae.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise SystemExit(f"the VAE of {warm} has another shape than recipe {recipe.name!r}: {error}") from None
    return vae.to(memory_format=torch.channels_last)


def decoder_loss(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error of pixels and of their differences, through an encoder that stands still."""
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
    decoded = vae.decode(latents).sample
    mse = F.mse_loss(decoded, pictures)
    return mse + sum(F.mse_loss(a, b) for a, b in zip(edges(decoded), edges(pictures), strict=True)), mse.detach()


def progress(recipe: SceneRecipe, step: int, done: float | None) -> tuple[bool, float]:
    """Whether the decoder trains alone, and how much of that part is over (1: all is).

    Args:
        recipe: gives both parts' steps.
        step: steps so far.
        done: share of the minutes given that is over, which then counts instead of the steps; the last quarter is
            the decoder's.
    """
    if done is not None:
        return done >= 0.75, done / 0.75 if done < 0.75 else 4 * done - 3
    late = step >= recipe.vae.steps
    return late, (step - recipe.vae.steps) / max(1, recipe.vae.decoder_steps) if late else step / recipe.vae.steps


@torch.no_grad()
def statistics(
    vae: AutoencoderKL, scenes: Scenes, recipe: SceneRecipe, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the latents per channel, over `count` new scenes."""
    parts = []
    for scene in scenes.drawn(count, recipe.scenes, (recipe.seed, 31)):
        parts.append(vae.encode(scenes.picture(scene)[None].to(vae.device)).latent_dist.mode()[0].flatten(1))
    flat = torch.cat(parts, dim=1)
    return flat.mean(1), flat.std(1)


@torch.no_grad()
def gate(vae: AutoencoderKL, scenes: Scenes, count: int = 48) -> dict[str, dict[str, float]]:
    """High-band correlation (from 1/8 cycles per pixel) of reconstructions: `objects`, and each material.

    Objects stand on plain colours, so that nothing but the object has a high band; materials stand alone.
    """

    def high(subjects: list[Scene]) -> float:
        truth = scenes.pictures(subjects)
        parts = [vae.decode(vae.encode(p.to(vae.device)).latent_dist.mode()).sample.cpu() for p in truth.split(4)]
        decoded = torch.cat(parts)
        return round(float(band_correlation(decoded, truth)["high"].mean()), 4)

    colours = list(scenes.colours)
    pairs = scenes.pairs()[:: max(1, len(scenes.pairs()) // count)]
    objects = [Scene(n, s, colours[i % len(colours)], None) for i, (n, s) in enumerate(pairs)]
    each = max(2, count // len(MATERIALS))
    by_material = {
        m: high([Scene(None, None, colours[(5 * i + k) % len(colours)], m, 10_000 + i) for i in range(each)])
        for k, m in enumerate(MATERIALS)
    }
    return {
        "objects": {"all": high(objects)},
        "materials": {"all": round(sum(by_material.values()) / len(by_material), 4), **by_material},
    }


@keep.signals_put_back
def main(
    recipe: str = typer.Option("emoji128", help="emoji128, toy, or a TOML file"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
    warm_start: Path = typer.Option(None, help="a model folder whose VAE has the recipe's shape"),
    minutes: float = typer.Option(None, help="finish early: the rate falls to zero over this many minutes of CPU time"),
    decoder: bool = typer.Option(
        False, help="the decoder alone, over --minutes: the latents of a model stay as they are"
    ),
) -> None:
    """Train the VAE (resumes where it stopped), fold the latents' statistics, and measure the gate."""
    settings = SceneRecipe.load(recipe)
    if decoder and not minutes:
        raise SystemExit("--decoder needs --minutes: over how many minutes its rate falls to zero")
    run = run or Path("runs") / settings.name
    scenes = Scenes(run / "references")
    stop = keep.Stop()
    vae = start(settings, warm_start)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.vae.learning_rate, weight_decay=0.0)
    checkpoint, step, history = run / "vae.safetensors", 0, []
    if checkpoint.is_file():
        tensors, record = keep.load(checkpoint)
        vae.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("vae.")})
        keep.restore(optimizer, vae.parameters(), tensors)
        step, history = record["step"], record["history"]
    clock, first = keep.Clock(history), step

    def save() -> None:
        tensors = {f"vae.{k}": v for k, v in vae.state_dict().items()} | keep.moments(optimizer, vae.parameters())
        row = {"steps": step - first, **clock.now()}
        keep.save(checkpoint, tensors, {"step": step, "history": [*history, row], "warm_start": str(warm_start or "")})

    bar = tqdm(total=settings.vae.steps + settings.vae.decoder_steps, initial=step, desc="vae", mininterval=10)
    while not stop.asked:
        done = clock.now()["cpu_seconds"] / (60 * minutes) if minutes else None
        late, share = (True, done or 0.0) if decoder else progress(settings, step, done)
        if share >= 1:
            break
        pictures = crops(scenes, settings, step, salt=3)
        warm = min(1.0, (step + 1) / 50)
        optimizer.param_groups[0]["lr"] = settings.vae.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        value, mse = decoder_loss(vae, pictures) if late else loss(vae, pictures, settings.vae.kl_weight)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()  # the encoder has no gradient in the late part and stands still
        step += 1
        bar.update()
        if step % 25 == 0:
            append_json(run / "vae.jsonl", {"step": step, "decoder": late, "mse": mse.item(), **clock.now()})
        if step % 50 == 0:
            save()
    save()
    if stop.asked:
        raise SystemExit(f"stopped at step {step}; kept in {checkpoint}, the same command goes on")
    finish(vae.eval(), scenes, settings, run)


def finish(vae: AutoencoderKL, scenes: Scenes, recipe: SceneRecipe, run: Path) -> None:
    """Fold the statistics, write `vae/`, measure the gate and write it to the log."""
    picture = scenes.picture(scenes.drawn(1, recipe.scenes, (recipe.seed, 32))[0])[None].to(vae.device)
    with torch.no_grad():
        before = vae.decode(vae.encode(picture).latent_dist.mode()).sample
        fold_statistics(vae, *statistics(vae, scenes, recipe, min(384, 2 * len(scenes.names))))
        drift = (vae.decode(vae.encode(picture).latent_dist.mode()).sample - before).abs().max().item()
    if drift > 1e-3:
        raise SystemExit(f"folding the statistics changed a picture by {drift:.1e}; at most 1e-3 is allowed")
    write_safely(run / "vae", lambda p: replace_folder(vae, p, run / "vae"))
    result = gate(vae, scenes, count=min(48, 4 * len(scenes.names)))
    append_json(run / "vae.jsonl", {"gate": result})
    print(f"VAE done, folding changed a picture by {drift:.1e}; high band: {result}")


if __name__ == "__main__":
    typer.run(main)
