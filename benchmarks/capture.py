"""What does a capture cost beside the plain pipeline: how much memory, how much time?

Memory: SD3's full width (1536: 24 heads of 64), two blocks of random weights, 512 and 1024 pixels, 2 and 8 steps. Each
run has a process of its own; the figure is the peak of its resident memory during the run (the kernel's high-water
mark, reset before it), and the goal is the captured run's peak less the plain one's. In those processes glibc's
allocator gives every freed block back at once, so that what is resident is what is alive: with its own settings the
peak depends on where there was room, by more than what a capture takes. Each figure is the median of some repetitions.

Time: plain and captured runs take turns, one torch thread, process time (so that other work on the machine counts
less); the ratio of each pair, its median, and a 95 % bootstrap interval of that median.

    python -m benchmarks.capture
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

import dg_tools as dg
from benchmarks.layouts import resident

HEADS, HEAD, BLOCKS = 24, 64, 2
MOST, SLOWEST = 20.0, 1.05  # goals: MiB above the plain run's peak, and the interval's upper end
PROMPT = "a red apple"
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def model() -> Any:
    """SD3's pipeline with a transformer of full width and two blocks; text encoders and VAE are tiny."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
    import tiny
    from diffusers import SD3Transformer2DModel

    pipeline, width = tiny.sd3(), HEADS * HEAD
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=BLOCKS,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=tiny.JOINT,
        caption_projection_dim=width,
        pooled_projection_dim=32,
        pos_embed_max_size=64,
    )
    vae = tiny.vae(halvings=3, channels=16)
    resized = type(pipeline)(**{**pipeline.components, "transformer": transformer.eval(), "vae": vae})
    resized.set_progress_bar_config(disable=True)
    return dg.load(resized)


def call(size: int, steps: int) -> dict[str, Any]:
    return {"steps": steps, "height": size, "width": size, "max_sequence_length": 16}


def plain(dit: dg.DiT, arguments: dict[str, Any]) -> None:
    """The pipeline's own call, a picture at its end."""
    dit.pipeline(**dit.arguments(PROMPT, seed=0, **arguments))


def captured(dit: dg.DiT, arguments: dict[str, Any]) -> None:
    dg.capture(dit, PROMPT, seeds=0, progress=False, **arguments)


WAYS: dict[str, Callable[[Any, dict[str, Any]], None]] = {"plain": plain, "captured": captured}


def peak_of(way: str, size: int, steps: int, answer: Any) -> None:
    """In a process of its own: the peak of resident memory during one run, in MiB."""
    torch.set_num_threads(1)
    dit = model()
    for warm in WAYS.values():  # imports, nnsight's wrapping, the weights' hash: not what a capture holds
        warm(dit, call(128, 1))
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the high-water mark begins anew
    WAYS[way](dit, call(size, steps))
    answer.put(resident(peak=True))


def memory(repetitions: int) -> list[dict[str, Any]]:
    """Peaks of the plain and the captured run at each size and number of steps."""
    context, rows = multiprocessing.get_context("spawn"), []
    before = dict(os.environ)
    os.environ.update(GIVE_BACK)
    try:
        for size in (512, 1024):
            for steps in (2, 8):
                peaks: dict[str, list[float]] = {way: [] for way in WAYS}
                for _ in range(repetitions):
                    for way in WAYS:
                        answer = context.Queue()
                        process = context.Process(target=peak_of, args=(way, size, steps, answer))
                        process.start()
                        peaks[way].append(answer.get(timeout=900))
                        process.join()
                row = {"pixels": size, "steps": steps, **{w: round(statistics.median(v), 1) for w, v in peaks.items()}}
                row["above"] = round(row["captured"] - row["plain"], 1)
                row["peaks"] = {way: [round(v, 1) for v in values] for way, values in peaks.items()}
                rows.append(row)
                print(
                    f"{size:5} px {steps:2} steps: plain {row['plain']:7.1f} MiB, captured {row['captured']:7.1f} MiB, "
                    f"{row['above']:+6.1f} MiB (goal: at most {MOST:g})",
                    flush=True,
                )
    finally:
        os.environ.clear()
        os.environ.update(before)
    return rows


def ratios(dit: dg.DiT, arguments: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Process time of captured over plain, in pairs that take turns; which is first alternates."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for pair in range(pairs + 1):
        for way in list(WAYS) if pair % 2 else list(reversed(WAYS)):
            began = time.process_time()
            WAYS[way](dit, arguments)
            if pair:  # the first warms up
                seconds[way].append(time.process_time() - began)
    ratio = np.array(seconds["captured"]) / np.array(seconds["plain"])
    draws = np.random.default_rng(0).choice(ratio, (10_000, len(ratio)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {
        "pairs": pairs,
        "ratio": round(float(np.median(ratio)), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "seconds": {way: round(float(np.median(v)), 3) for way, v in seconds.items()},
    }


def overhead(pairs: int, pixels: int, steps: int) -> dict[str, Any]:
    """Ratios at a realistic width, and of the embedded model beside it."""
    torch.set_num_threads(1)
    rows = {}
    wide = f"width {HEADS * HEAD}, {BLOCKS} blocks, {pixels} px, {steps} steps"
    for name, dit, arguments in (
        (wide, model(), call(pixels, steps)),
        ("embedded model, 20 steps", dg.load(), {"steps": 20}),
    ):
        rows[name] = row = ratios(dit, arguments, pairs)
        low, high = row["interval"]
        goal = f" (goal: upper end at most {SLOWEST})" if name == wide else " (for information)"
        print(
            f"{name}: captured {row['ratio']:.3f} x plain, 95 % interval {low:.3f} to {high:.3f} over {pairs} pairs; "
            f"plain {row['seconds']['plain']:.2f} s of process time{goal}",
            flush=True,
        )
    return rows


def main(
    pairs: int = typer.Option(15, help="pairs of runs for the time"),
    repetitions: int = typer.Option(3, help="processes for each peak"),
    pixels: int = typer.Option(512, help="size of the timed pictures"),
    steps: int = typer.Option(2, help="steps of the timed pictures"),
    only: str = typer.Option("", help="memory or time; both by default"),
    out: Path = typer.Option(Path("build/capture.json"), help="where to keep the figures"),
) -> None:
    """Measure memory and time of a capture."""
    record: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "diffusers", "nnsight")},
    }
    if out.is_file() and only:
        record = {**json.loads(out.read_text(encoding="utf-8")), **record}
    if only in ("", "time"):
        record["time"] = overhead(pairs, pixels, steps)
    if only in ("", "memory"):
        record["memory"] = memory(repetitions)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
