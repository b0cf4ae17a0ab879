"""GPU: the same training in minutes, on one GPU, by the clock.

    python -m training.scenes.gpu --recipe emoji128-gpu --warm-start dg_tools/zoo/emoji-sd3 --vae-minutes 2 --minutes 0
    python -m training.scenes.gpu --recipe emoji128-gpu --warm-start dg_tools/zoo/emoji-sd3 --minutes 8

Model, loss, captions and stages are those of `training.scenes.vae` and `.dit`. What differs: pictures are drawn by
other processes all the while, latents and ids stay on the GPU, a step runs in bfloat16 and is replayed as one CUDA
graph, and a stage on whole pictures takes its share of the minutes (its `steps` over those of all such stages), since
how many steps fit is known only there. The rate falls along a cosine over the last `FALL` of the time. On a CPU the
same command runs the same steps one by one: for a rehearsal.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch
import typer
from diffusers import AutoencoderKL

from training.dit import machine
from training.recipe import append_csv, append_json
from training.scenes import dose, keep
from training.scenes.recipe import SceneRecipe, Stage
from training.scenes.recorded import Stepper, autocast
from training.scenes.render import Job, Renderer, processes
from training.scenes.ring import Ring, random_crops
from training.scenes.scene import Scenes
from training.scenes.state import State
from training.scenes.vae import BARE, CROP, decoder_loss, finish, progress, start
from training.scenes.validate import groups, validate
from training.vae import loss

FALL = 0.3  # share of the time over which the rate falls to zero
CROPS = 16  # crops of a step of the autoencoder, times the recipe's batch
VAE_SHARDS = 24  # shards that the autoencoder trains on
REUSE = 12  # each picture is used about so often
LOOKS = 12  # validations


def train_vae(run: Path, recipe: SceneRecipe, renderer: Renderer, minutes: float, warm: Path | None) -> None:
    """Train the autoencoder by the clock, fold the latents' statistics, write `vae/`, measure its gate."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = start(recipe, warm).to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.vae.learning_rate, weight_decay=0.0, fused=True)
    batch, side = (CROPS if device == "cuda" else 1) * recipe.vae.batch, min(CROP, recipe.size)
    pixels = [shard["pictures"].to(device) for shard in (renderer.take() for _ in range(2)) if shard]
    pool = torch.cat(pixels)
    began, step = time.perf_counter(), 0
    while (share := (time.perf_counter() - began) / (60 * minutes)) < 1:
        if step % 20 == 0 and len(pixels) < VAE_SHARDS and (shard := renderer.take(wait=False)):
            pixels.append(shard["pictures"].to(device))
            pool = torch.cat(pixels)
        late, part = progress(recipe, step, share)
        rate = recipe.vae.learning_rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * part))
        optimizer.param_groups[0]["lr"] = rate
        pictures = random_crops(pool, batch, side)
        with autocast(device):
            value, mse = decoder_loss(vae, pictures) if late else loss(vae, pictures, recipe.vae.kl_weight)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            seconds = round(time.perf_counter() - began, 1)
            append_json(run / "vae.jsonl", {"step": step, "decoder": late, "mse": mse.item(), "seconds": seconds})
    append_json(run / "vae.jsonl", {"steps": step, "batch": batch, "machine": machine(device)})
    finish(vae.eval(), Scenes(run / "references"), recipe, run)


def begin(recipe: SceneRecipe, run: Path, warm: Path | None, mode: str) -> State:
    """The model with an optimizer that a graph can hold; warm, or random."""
    state = State(recipe, run)
    if warm is not None:
        left = state.warm_start(warm)
        print(f"warm start from {warm.name}; not taken: {', '.join(left) or 'nothing'}")
    rate = torch.tensor(recipe.dit.learning_rate, device=state.device)
    on_gpu = state.device == "cuda"
    state.optimizer = torch.optim.AdamW(
        state.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=on_gpu, capturable=on_gpu
    )
    if "compile" in mode:
        for block in state.transformer.transformer_blocks:
            block.compile(dynamic=False)
    return state


@keep.signals_put_back
def train_dit(run: Path, recipe: SceneRecipe, renderer: Renderer, minutes: float, warm: Path | None, mode: str) -> None:
    """Train transformer and text encoders by the clock, through the stages, with a checkpoint now and then."""
    state = begin(recipe, run, warm, mode)
    vae = AutoencoderKL.from_pretrained(run / "vae").eval().to(state.device, memory_format=torch.channels_last)
    shard = recipe.pool.shard
    ring = Ring(vae, recipe, room=shard * recipe.pool.window)
    for _ in range(min(8, recipe.pool.window)):
        ring.add(renderer.take() or {})
    fixed = groups(Scenes(run / "references"), vae, recipe, run / "validation.safetensors")
    due, looked, seen, stepper = dose.due(recipe.dit.steps), 0, 0, None  # type: set[int], int, int, Stepper | None
    clock, stop, began = keep.Clock(state.history), keep.Stop(), time.perf_counter()

    def past() -> float:
        return (time.perf_counter() - began) / (60 * minutes)

    def look(last: bool) -> None:
        state.swap()
        with torch.compiler.set_stance("force_eager"):
            losses = validate(state, fixed)
            append_json(run / "validation.jsonl", {"step": state.step, **losses, **clock.now()})
            if last or any(d <= state.step for d in due):
                due.difference_update([d for d in due if d <= state.step])
                append_csv(run / "dose.csv", dose.dose(state, fixed["trained"]))
        state.swap()

    def save() -> None:
        row = {"steps": state.step, **clock.now(), "machine": machine(state.device)}
        state.save(run / "dit.safetensors", row)

    while ((share := past()) < 1 or not state.step) and not stop.asked:
        stage = stage_at(recipe, share)
        if stepper is None or stepper.stage != stage:
            stepper = None  # its graph's memory is free before the next is recorded
            stepper = Stepper(state, ring, stage, mode)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, (share - 1 + FALL) / FALL)))
        stepper.rate.fill_(recipe.dit.learning_rate * min(1.0, (state.step + 1) / recipe.dit.warmup) * fall)
        stepper.run()
        state.step, seen = state.step + 1, seen + stage.batch
        if seen > REUSE * ring.made and (new := renderer.take(wait=False)):
            ring.add(new)
        if state.step % 100 == 0:
            mean = round(stepper.total.item() / 100, 5)
            stepper.total.zero_()
            row = {"step": state.step, "loss": mean, "made": ring.made, "seen": seen, **clock.now()}
            append_json(run / "dit.jsonl", row)
            if not math.isfinite(mean):
                raise SystemExit(f"the loss is {mean} at step {state.step}")
        if share > (looked + 1) / LOOKS or any(d <= state.step for d in due):
            if int(share * LOOKS) % 3 > looked % 3:
                save()
            looked = int(share * LOOKS)
            look(last=False)
    save()
    look(last=True)
    print(f"{state.step} steps, {seen} pictures of {ring.made} different ones, in {time.perf_counter() - began:.0f} s")


def whole(recipe: SceneRecipe) -> list[Stage]:
    """The stages on whole pictures; small ones spare a CPU time, and a GPU does without."""
    return [s for s in recipe.stages if s.size == recipe.size]


def stage_at(recipe: SceneRecipe, share: float) -> Stage:
    """The stage at a share of the time."""
    stages = whole(recipe)
    left = share * sum(s.steps for s in stages)
    for stage in stages:
        left -= stage.steps
        if left < 0:
            return stage
    return stages[-1]


def timing(run: Path, recipe: SceneRecipe, renderer: Renderer, warm: Path | None, mode: str) -> None:
    """Milliseconds of a step in each stage, printed; nothing is kept."""
    state = begin(recipe, run, warm, mode)
    vae = start(recipe, warm).eval().to(state.device)
    ring = Ring(vae, recipe, room=recipe.pool.shard)
    ring.add(renderer.take() or {})
    repeats = 40 if state.device == "cuda" else 2
    for stage in whole(recipe):
        stepper = Stepper(state, ring, stage, mode)
        stepper.run()
        stepper.total.zero_().item()  # waits for the device
        began = time.perf_counter()
        for _ in range(repeats):
            stepper.run()
        mean = stepper.total.item() / repeats
        spent = 1000 * (time.perf_counter() - began) / repeats
        print(f"{mode}: keep {stage.keep}, batch {stage.batch}: {spent:.2f} ms, mean loss {mean:.3f}")


def main(
    recipe: str = typer.Option("emoji128-gpu", help="emoji128-gpu, toy, or a TOML file"),
    run: Path = typer.Option(None, help="run folder (default runs/RECIPE)"),
    warm_start: Path = typer.Option(None, help="a model folder whose weights are the first ones, where shapes agree"),
    vae_minutes: float = typer.Option(2.0, help="minutes for the autoencoder, unless the run folder has one"),
    minutes: float = typer.Option(8.0, help="minutes for the transformer; 0 leaves it"),
    mode: str = typer.Option("graph", help="how a step runs on a GPU: eager, graph, compile, graph+compile"),
    workers: int = typer.Option(0, help="processes that draw pictures (default: all cores but one)"),
    ahead: int = typer.Option(32, help="shards that are drawn ahead"),
    time_only: bool = typer.Option(False, help="print the time of a step in each stage, and stop"),
) -> None:
    """Train the VAE, then the transformer, each for a number of minutes."""
    settings = SceneRecipe.load(recipe)
    run = run or Path("runs") / settings.name
    torch.manual_seed(settings.seed)
    torch.set_float32_matmul_precision("high")
    pool = processes(workers or max(1, (os.cpu_count() or 2) - 1))
    shard, scenes = settings.pool.shard, settings.scenes
    try:
        train = not time_only and not (run / "vae").is_dir()
        crops = Renderer(pool, Job(run, settings, shard, BARE, salt=3, number=0), VAE_SHARDS) if train else None
        pictures = Renderer(pool, Job(run, settings, shard, scenes.bare, salt=41, number=0), 1 if time_only else ahead)
        if time_only:
            timing(run, settings, pictures, warm_start, mode)
        if crops:
            train_vae(run, settings, crops, vae_minutes, warm_start)
        if minutes and not time_only:
            train_dit(run, settings, pictures, minutes, warm_start, mode)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    typer.run(main)
