"""DiT: an SD3 transformer and its text encoders on the latents of scenes, by rectified flow, in stages.

    python -m training.scenes.dit --recipe emoji128 --run runs/emoji128 --warm-start dg_tools/zoo/emoji-sd3
    python -m training.scenes.dit --recipe emoji128 --run runs/emoji128 --finish 20

The recipe's stages say the size of the pictures and the share of tokens that is kept: small whole pictures first, then
most tokens dropped, then all of them. The rate is constant until the last `finish` steps, so a run can be stopped and
taken up anywhere. `--finish MINUTES` brings the rate of what has been reached down along a cosine, into a checkpoint of
its own (`dit-finished.safetensors`), beside the one from which training can still go on.

SIGTERM or Ctrl-C: the step ends, a checkpoint is written, the same command goes on. SIGSTOP and SIGCONT pause it.
What is random in step n depends on the seed and n alone.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from training.dit import machine
from training.recipe import append_csv, append_json
from training.scenes import dose, keep
from training.scenes.pool import Pool
from training.scenes.recipe import SceneRecipe
from training.scenes.scene import Scene, Scenes
from training.scenes.state import State
from training.scenes.tokens import flow_loss, kept, positions
from training.scenes.validate import groups, validate


def captions(scenes: list[Scene], recipe: SceneRecipe, step: int) -> list[str]:
    """What is said of each scene: all of it, a part, or nothing."""
    chance, said = np.random.default_rng((recipe.seed, 45, step)), []
    for scene in scenes:
        style, background, anything = chance.random(3)
        words = scene.said(style < recipe.scenes.style_said, background < recipe.scenes.background_said)
        said.append("" if anything < recipe.dit.unconditional else words)
    return said


def step_loss(state: State, pool: Pool, step: int, places: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the predicted velocity noise - x, over the tokens that are kept."""
    recipe = state.recipe
    stage, _ = recipe.stage(step)
    latents, scenes = pool.batch(step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    noise = torch.randn(latents.shape, generator=generator)
    sigma = torch.sigmoid(stage.sigma_mean + recipe.dit.sigma_std * torch.randn(len(latents), generator=generator))
    side = latents.shape[-1] // recipe.dit.patch
    index = kept(len(latents), side, stage.keep, stage.cell, generator)
    text = state.text(captions(scenes, recipe, step), state.device)
    latents, noise, sigma = (x.to(state.device) for x in (latents, noise, sigma))
    index = index if index is None else index.to(state.device)
    return flow_loss(state.transformer, latents, noise, sigma, text, places, index)


def rate(recipe: SceneRecipe, step: int, since: int, falling: float | None) -> float:
    """Learning rate: a warm-up, constant, and half a cosine to zero.

    Args:
        recipe: gives rate, warm-up and the steps of the end.
        step: steps so far.
        since: steps since the optimizer's moments were new.
        falling: share of the end that is over, where `--finish` says so by the clock; else it follows the steps.
    """
    if falling is None:
        falling = max(0.0, (step - (recipe.dit.steps - recipe.finish)) / recipe.finish)
    end = 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))
    return recipe.dit.learning_rate * min(1.0, (since + 1) / recipe.dit.warmup) * end


@keep.signals_put_back
def main(
    recipe: str = typer.Option("emoji128", help="emoji128, toy, or a TOML file"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
    warm_start: Path = typer.Option(None, help="a model folder whose weights are the first ones, where shapes agree"),
    minutes: float = typer.Option(None, help="stop after this many minutes of CPU time, with a checkpoint"),
    finish: float = typer.Option(None, help="the rate falls to zero in this many CPU minutes, in its own checkpoint"),
) -> None:
    """Train transformer and text encoders; resumes where it stopped."""
    settings = SceneRecipe.load(recipe)
    run = run or Path("runs") / settings.name
    if not (run / "vae").is_dir():
        raise SystemExit(f"{run}/vae is missing; run first: python -m training.scenes.vae --recipe {recipe}")
    stop = keep.Stop()
    state = State(settings, run)
    file = run / "dit.safetensors"
    if file.is_file():
        state.load(file)
    elif warm_start:
        left = state.warm_start(warm_start)
        print(f"warm start from {warm_start.name}; not taken: {', '.join(left) or 'nothing'}")
    if finish:
        file = run / "dit-finished.safetensors"
    scenes = Scenes(run / "references")
    vae = AutoencoderKL.from_pretrained(run / "vae").eval().to(state.device, memory_format=torch.channels_last)
    pool = Pool(scenes, vae, settings, run / "latents", lambda: stop.asked)
    fixed = groups(scenes, vae, settings, run / "validation.safetensors")
    width = settings.dit.heads * settings.dit.head_dim
    looked = state.step
    clock, first, total = keep.Clock(state.history), state.step, settings.dit.steps
    limit = finish or minutes
    bar = tqdm(total=total, initial=first, desc="dit", mininterval=30)

    def save() -> None:
        state.save(file, {"steps": state.step - first, **clock.now(), "machine": machine(state.device)})

    def look() -> None:
        state.swap()
        losses = validate(state, fixed)
        append_json(run / "validation.jsonl", {"step": state.step, "finish": bool(finish), **losses, **clock.now()})
        if state.step in measure:
            append_csv(run / "dose.csv", dose.dose(state, fixed["trained"]))
        state.swap()

    measure = dose.due(total) if not finish else set()
    saved, recent = time.perf_counter(), []  # type: tuple[float, list[float]]
    while (state.step < total or finish) and not stop.asked:
        share = clock.now()["cpu_seconds"] / (60 * limit) if limit else 0.0
        if share >= 1:
            break
        stage, _ = settings.stage(state.step)
        places = positions(stage.size // settings.vae.factor // settings.dit.patch, settings.tokens, width)
        places = places.to(state.device)
        state.optimizer.param_groups[0]["lr"] = rate(settings, state.step, state.step, share if finish else None)
        try:
            value = step_loss(state, pool, state.step, places)
        except InterruptedError:
            break
        state.optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(state.parameters, 1.0)
        state.optimizer.step()
        state.step += 1
        state.average_in()
        bar.update()
        recent.append(value.item())
        if state.step % 25 == 0:
            mean = round(float(np.mean(recent)), 5)
            append_json(run / "dit.jsonl", {"step": state.step, "loss": mean, **clock.now()})
            recent.clear()
        if state.step % settings.dit.validate_every == 0 or state.step in measure:
            look()
            looked = state.step
        if state.step % settings.dit.save_every == 0 or time.perf_counter() - saved > 300:
            save()
            saved = time.perf_counter()
    if looked < state.step and not stop.asked:
        look()
    save()
    print(f"step {state.step} of {total}, {clock.now()['cpu_hours']} h of CPU time, kept in {file}")


if __name__ == "__main__":
    typer.run(main)
