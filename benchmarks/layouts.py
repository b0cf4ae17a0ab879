"""SD3's and FLUX.1's layouts at a size where arithmetic decides, with random weights: what does each path of DG cost?

Eight blocks of width 512 on 256 image tokens, disrupted after the fourth. The fork ought to cost (K - m - 1) / K of a
third row. Peak memory is that of a fresh process for each path, less what the loaded model takes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import dg_tools as dg
from benchmarks.turns import in_turns, table
from dg_tools.forward.call import Call
from dg_tools.generation.sampling import run
from dg_tools.guidance.passes import Passes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

BLOCKS, BLOCK, HEADS, HEAD, STEPS, SIZE = 8, 3, 8, 64, 2, 64
PROMPT = "a red apple"
OFF = dg.Disrupt([3, 7], BLOCK)
IN_PASS = {"DG in u": dg.DetailGuidance(None, disrupt=OFF, rows="uncond"), "knob": dg.DetailKnob([3, 7], BLOCK, 0.5)}
CALL: dict[str, Any] = {"seed": 0, "steps": STEPS, "height": SIZE, "width": SIZE, "max_sequence_length": 16}


def model(layout: str) -> dg.DiT:  # type: ignore[name-defined]
    """A pipeline of tiny text encoders and VAE around a transformer of some size."""
    import tiny
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    pipeline = tiny.PIPELINES[layout]()
    width = HEADS * HEAD
    shared: dict[str, Any] = {
        "attention_head_dim": HEAD,
        "num_attention_heads": HEADS,
        "joint_attention_dim": tiny.JOINT,
    }
    if layout == "sd3":
        config = {"sample_size": 32, "patch_size": 2, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 32}
        transformer = SD3Transformer2DModel(
            **shared, **config, num_layers=BLOCKS, caption_projection_dim=width, pooled_projection_dim=32
        )
    else:
        transformer = FluxTransformer2DModel(
            **shared,
            patch_size=1,
            in_channels=16,
            num_layers=BLOCKS // 2,
            num_single_layers=BLOCKS // 2,
            pooled_projection_dim=16,
            axes_dims_rope=(16, 24, 24),
        )
    components = {**pipeline.components, "transformer": transformer.eval()}
    resized = type(pipeline)(**components)
    resized.set_progress_bar_config(disable=True)
    return dg.load(resized)


def three_rows(self: Passes, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """The disrupted row from the first block on: what a batch of [u, c, d] without the fork costs."""
    rows = inputs["hidden_states"].shape[0]
    record, edit = self.dit.block(self.disrupt.block).record, self.edit(call.alone())

    def grown(value: Any, name: str) -> Any:
        has_rows = name in self.dit.family.row_inputs and isinstance(value, torch.Tensor) and value.shape[0] == rows
        return torch.cat([value, value[call.cond]]) if has_rows else value

    def hook(module: Any, args: Any, output: tuple) -> tuple:
        image = edit(tuple(x[rows:] for x in output))[record.image]
        return tuple(torch.cat([x[:rows], image]) if i == record.image else x for i, x in enumerate(output))

    handle = self.dit.block(self.disrupt.block).module.register_forward_hook(hook)
    try:
        output = self.unguided(**{k: grown(v, k) for k, v in inputs.items()})[0]
    finally:
        handle.remove()
    return output[:rows], output[rows:]


@contextmanager
def around(dit: dg.DiT, way: str) -> Any:
    """DG in the caller's own CFG, by one way; or a guidance in CFG's own passes."""
    guider: Any = dg.DetailGuidance(None, 0.5, OFF)
    if way in IN_PASS:
        guider = IN_PASS[way]
        way = "fork"
    with ExitStack() as stack:
        if way == "three rows":
            stack.enter_context(mock.patch.object(Passes, "fork", three_rows))
            way = "fork"
        stack.enter_context(dg.detail_guidance(dit, guider, way=way))  # type: ignore[arg-type]
        yield


def paths(layout: str, dit: dg.DiT) -> dict[str, Callable[[], object]]:
    """Every path, by name."""

    def sample(scale: float, way: str | None = None) -> Callable[[], object]:
        def once() -> object:
            guidance = dg.CFG(scale) if scale > 1 else None
            if way is None:
                return run(dit, PROMPT, guidance=guidance, **CALL)
            with around(dit, way):
                return run(dit, PROMPT, guidance=guidance, **CALL)

        return once

    def traced() -> None:
        with dit.trace(PROMPT, guidance_scale=3.0, output_type="latent", **CALL) as tracer:
            for _ in tracer.steps:
                dit.blocks[BLOCK].image[..., [3, 7]] = 0

    ways = {"CFG": sample(3.0)}
    for way in ("fork", "three rows", "partial", "whole"):
        ways[f"CFG + DG, {way}"] = sample(3.0, way)
    ways |= {f"CFG, {name}": sample(3.0, name) for name in IN_PASS}
    ways |= {"DG, fork": sample(1.0, "fork"), "cond": sample(1.0)}
    if layout == "sd3":
        ways["CFG + DG, modular guider"] = modular(dit)
    return ways | {"CFG, edited by nnsight": traced}


def modular(dit: dg.DiT) -> Callable[[], object]:
    """The guider in diffusers' modular pipeline."""
    from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

    pipeline = StableDiffusion3AutoBlocks().init_pipeline()
    pipeline.update_components(**dit.pipeline.components, guider=dg.DetailGuidance(3.0, 0.5, OFF))
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(
        prompt=PROMPT,
        negative_prompt="",
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        max_sequence_length=16,
        output="latents",
        generator=torch.Generator().manual_seed(0),
    )


def resident(peak: bool) -> float:
    """Resident memory in MiB, now or at most (Linux; elsewhere 0)."""
    status = Path("/proc/self/status")
    field = "VmHWM" if peak else "VmRSS"
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)


def peak_of(layout: str, name: str, answer: Any) -> None:
    """In a process of its own: peak memory of one run above the loaded model."""
    dit = model(layout)
    todo = paths(layout, dit)[name]
    before = resident(peak=False)
    todo()
    answer.put(resident(peak=True) - before)


def memory(layout: str, names: list[str]) -> dict[str, float]:
    """Peak MiB of each path."""
    context, peaks = multiprocessing.get_context("spawn"), {}
    malloc = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("MALLOC_")}  # these keep freed memory
    try:
        for name in names:
            answer = context.Queue()
            process = context.Process(target=peak_of, args=(layout, name, answer))
            process.start()
            peaks[name] = round(answer.get(timeout=300), 1)
            process.join()
    finally:
        os.environ.update(malloc)
    return peaks


def measure(layout: str, rounds: int) -> dict[str, Any]:
    """Seconds, ratios to plain CFG and peak memory of every path; printed."""
    dit = model(layout)
    todo = paths(layout, dit)
    seconds = in_turns(todo, rounds)
    peaks = memory(layout, list(todo))
    print(f"\n{layout} layout: {BLOCKS} blocks of width {HEADS * HEAD}, disrupted after block {BLOCK}, {STEPS} steps")
    rows: dict[str, Any] = table(seconds, peaks=peaks)
    plain = np.array(seconds["CFG"])
    bound = (BLOCKS - BLOCK - 1) / BLOCKS + 0.05
    extra = (np.array(seconds["CFG + DG, fork"]) - plain) / (np.array(seconds["CFG + DG, three rows"]) - plain)
    rows["fork over three rows"] = {"ratio": round(float(np.median(extra)), 3), "goal": bound}
    print(f"(fork - CFG) / (three rows - CFG): {np.median(extra):.2f} (goal: at most {bound:.2f})")
    return rows
