"""VAE: a small AutoencoderKL on the sprites, and the latents of every picture.

Three steps: train encoder and decoder; bring the latents to zero mean and unit variance per channel; train the decoder
a little longer with the encoder frozen, so that the latents stand. The SD3 pipeline knows one scalar shift and scale
only, so the per-channel statistics are folded, exactly, into the last convolution of the encoder and into the 1 x 1
`post_quant_conv` in front of the decoder (no padding there, so the fold is exact at the border too).

The VAE sees every picture, those of held-out pairs too: it reads no caption, and its ceiling should be the same for
all. The pairs are held out of what the DiT learns.

    python -m training.vae --recipe cpu --run runs/cpu
    python -m training.vae --recipe cpu-flux --take dg_tools/zoo/emoji-sd3
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from tqdm.auto import tqdm

from dg_tools.datasets.references import STYLES, References
from training.data import BACKGROUNDS
from training.recipe import Recipe, append_json, write_safely


def build(recipe: Recipe) -> AutoencoderKL:
    """An untrained AutoencoderKL of the recipe's size."""
    n = len(recipe.vae.channels)
    return AutoencoderKL(
        block_out_channels=recipe.vae.channels,
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        latent_channels=recipe.vae.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=recipe.size,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=True,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def random_pictures(
    sprites: torch.Tensor, colours: torch.Tensor, batch: int, generator: torch.Generator
) -> torch.Tensor:
    """(batch, 3, H, W) in [-1, 1]: random sprites over random backgrounds, half of these not among the named ones."""
    rgba = sprites[torch.randint(len(sprites), (batch,), generator=generator)].float() / 255
    colour = colours[torch.randint(len(colours), (batch,), generator=generator)]
    anything = torch.rand(batch, 3, generator=generator)
    colour = torch.where(torch.rand(batch, 1, generator=generator) < 0.5, colour, anything)
    alpha = rgba[..., 3:]
    mixed = rgba[..., :3] * alpha + colour[:, None, None] * (1 - alpha)
    return (mixed * 2 - 1).permute(0, 3, 1, 2)


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences along y and x: what the eye takes for sharpness."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def loss(vae: AutoencoderKL, pictures: torch.Tensor, kl_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Training loss and plain mean squared error."""
    posterior = vae.encode(pictures).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    mse = F.mse_loss(decoded, pictures)
    sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(decoded), edges(pictures), strict=True))
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return mse + 0.2 * F.l1_loss(decoded, pictures) + 0.5 * sharp + kl_weight * kl, mse.detach()


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate: a short warm-up, then half a cosine down to zero."""
    share = step / steps
    return recipe.vae.learning_rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Make the latents zero-mean and unit-variance per channel without changing what encode-decode gives."""
    c = len(mean)
    out, post = vae.encoder.conv_out, vae.post_quant_conv
    out.weight[:c] /= std[:, None, None, None]
    out.bias[:c] = (out.bias[:c] - mean) / std
    out.bias[c:] -= 2 * std.log()  # the second half is log-variance
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def encode_all(vae: AutoencoderKL, references: References) -> torch.Tensor:
    """(names, styles, backgrounds, C, h, w): the posterior mean of every picture."""
    rows = []
    for name in tqdm(references.names, desc="latents", mininterval=5):
        pictures = references.pictures([references.reference(name, s, b) for s in STYLES for b in BACKGROUNDS])
        rows.append(vae.encode(pictures).latent_dist.mode().unflatten(0, (len(STYLES), len(BACKGROUNDS))))
    return torch.stack(rows)


def main(
    recipe: str = typer.Option("cpu", help="cpu, gpu, toy, or a TOML file"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
    take: Path = typer.Option(None, help="an exported model folder whose VAE is used as it is, nothing trained"),
) -> None:
    """Train the VAE (resumes where it stopped), fold the latent statistics, and store all latents."""
    settings = Recipe.load(recipe)
    run = run or Path("runs") / settings.name
    if not (run / "references" / "names.json").is_file():
        raise SystemExit(f"{run}/references is missing; run first: python -m training.data --recipe {recipe}")
    references = References(run / "references")
    if take is not None:
        take_vae(take, run, references, settings)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(settings.seed)
    vae = build(settings).to(device, memory_format=torch.channels_last)  # a quarter faster on a CPU
    optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.vae.learning_rate, weight_decay=0.0)
    total = settings.vae.steps
    checkpoint, step = run / "vae.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        try:
            vae.load_state_dict(state["vae"])
        except RuntimeError as error:
            raise SystemExit(f"{checkpoint} has another shape than recipe {recipe!r}: {error}") from None
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]

    def save() -> None:
        state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        write_safely(checkpoint, lambda p: torch.save(state, p))

    sprites = torch.cat([torch.from_numpy(references.sprites[s].copy()) for s in STYLES])
    colours = torch.tensor(list(BACKGROUNDS.values())) / 255
    bar = tqdm(total=total, initial=step, desc="vae", mininterval=5)
    try:
        while step < total:
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            pictures = random_pictures(sprites, colours, settings.vae.batch, generator)
            pictures = pictures.to(device, memory_format=torch.channels_last)
            began = time.perf_counter()
            optimizer.param_groups[0]["lr"] = rate(settings, step, total)
            value, mse = loss(vae, pictures, settings.vae.kl_weight)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            step += 1
            bar.update()
            if step % 25 == 0 or step == total:
                bar.set_postfix(mse=f"{mse.item():.5f}")
                seconds = round(time.perf_counter() - began, 3)
                append_json(run / "vae.jsonl", {"step": step, "mse": mse.item(), "seconds": seconds})
            if step % 250 == 0:
                save()
    except KeyboardInterrupt:
        save()
        raise SystemExit(f"interrupted at step {step}; kept in {checkpoint}, the same command goes on") from None
    save()

    vae = vae.eval().cpu()
    latents = encode_all(vae, references)
    flat = latents.transpose(0, 3).flatten(1)  # channel first
    mean, std = flat.mean(1), flat.std(1)
    with torch.no_grad():
        before = vae.decode(latents[0, 0, :2]).sample
    fold_statistics(vae, mean, std)
    latents = (latents - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        drift = (vae.decode(latents[0, 0, :2]).sample - before).abs().max().item()
    assert drift < 1e-3, f"folding changed the pictures by {drift}"
    write_safely(run / "vae", lambda p: replace_folder(vae, p, run / "vae"))
    write_safely(run / "latents.safetensors", lambda p: save_file({"latents": latents.half().contiguous()}, p))
    train_decoder(run / "vae", references, latents, settings, device)
    print(f"VAE done: {tuple(latents.shape)} latents, folding changed the pictures by at most {drift:.1e}")


def take_vae(folder: Path, run: Path, references: References, recipe: Recipe) -> None:
    """The VAE of an exported folder, and the latents that it gives: models that share it share their latent space.

    Raises:
        SystemExit: no VAE there, one of another shape than the recipe's, or one trained on other pictures.
    """
    if not (folder / "vae").is_dir():
        raise SystemExit(f"{folder} has no vae: pass a folder that training.export wrote")
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    shape = [vae.config.latent_channels, *vae.config.block_out_channels]
    if shape != [recipe.vae.latent_channels, *recipe.vae.channels]:
        raise SystemExit(f"the VAE of {folder} has channels {shape}; recipe {recipe.name!r} says another shape")
    beside = folder.parent / "emoji" / "names.json"
    if beside.is_file() and References(beside.parent).names != references.names:
        raise SystemExit(f"the VAE of {folder} was trained on other names than recipe {recipe.name!r} has")
    latents = encode_all(vae, references)
    write_safely(run / "vae", lambda p: replace_folder(vae, p, run / "vae"))
    write_safely(run / "latents.safetensors", lambda p: save_file({"latents": latents.half().contiguous()}, p))
    if (folder / "vae.jsonl").is_file():
        shutil.copy(folder / "vae.jsonl", run / "vae.jsonl")
    print(f"VAE of {folder}: {tuple(latents.shape)} latents")


def train_decoder(folder: Path, references: References, latents: torch.Tensor, recipe: Recipe, device: str) -> None:
    """The decoder alone, on the stored latents, for squared error of pixels and of their differences."""
    vae = AutoencoderKL.from_pretrained(folder).to(device, memory_format=torch.channels_last)
    trained = [p for part in (vae.decoder, vae.post_quant_conv) for p in part.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=recipe.vae.learning_rate, weight_decay=0.0)
    rows = list(np.ndindex(*latents.shape[:3]))
    colours, total = list(BACKGROUNDS), recipe.vae.decoder_steps
    bar = tqdm(range(total), desc="decoder", mininterval=5)
    for step in bar:
        chance = np.random.default_rng((recipe.seed, step, 5))
        picked = [rows[i] for i in chance.integers(len(rows), size=recipe.vae.batch)]
        pictures = references.pictures(
            [references.reference(references.names[n], STYLES[s], colours[b]) for n, s, b in picked]
        ).to(device)
        encoded = torch.stack([latents[i] for i in picked]).to(device, memory_format=torch.channels_last)
        optimizer.param_groups[0]["lr"] = rate(recipe, step, total) / 2
        decoded = vae.decode(encoded).sample
        sharp = sum(F.mse_loss(a, b) for a, b in zip(edges(decoded), edges(pictures), strict=True))
        value = F.mse_loss(decoded, pictures) + sharp
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == total:
            bar.set_postfix(loss=f"{value.item():.5f}")
            append_json(folder.parent / "vae.jsonl", {"decoder_step": step + 1, "loss": value.item()})
    write_safely(folder, lambda p: replace_folder(vae.cpu(), p, folder))


def replace_folder(vae: AutoencoderKL, partial: Path, final: Path) -> None:
    """Save beside the old folder and clear the old one, so that the rename can take its place."""
    vae.save_pretrained(partial)
    shutil.rmtree(final, ignore_errors=True)


if __name__ == "__main__":
    typer.run(main)
