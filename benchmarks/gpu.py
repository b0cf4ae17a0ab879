"""What do Detail Guidance and capture cost at the shapes that people run? SD3.5-medium and FLUX.1, random weights.

1024 pixels, bfloat16, one accelerator; text encoders and VAE are tiny, so that the time is the transformer's. Variants
take turns, and a ratio is the median over rounds of a variant's time to plain CFG's of the same round; FLUX.1's CFG is
the true one, two calls per step. Peak memory is the accelerator's, above what the loaded model takes. Then the blocks
are compiled one by one, as people do, and the same is measured against compiled CFG. Random weights say what a pass
costs, and nothing about pictures.

At most eight minutes on a current accelerator; with `--toy`, in some three minutes on a CPU, the same at tiny shapes in
float32, for trying the script.

    python -m benchmarks.gpu            # into benchmarks/results/<device>.json
    python -m benchmarks.gpu --toy
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import typer

import dg_tools as dg
from benchmarks.layouts import three_rows
from benchmarks.turns import in_turns, table
from dg_tools.generation.sampling import run
from dg_tools.guidance.passes import Passes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

PROMPT, SCALE, WEIGHT = "a red apple", 4.0, 0.5
SHAPES: dict[str, dict[str, Any]] = {  # the published configurations
    "sd3.5-medium": {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
        "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
        "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)),
    },
    "flux.1": {
        "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
        "axes_dims_rope": (16, 56, 56),
    },
}  # fmt: skip
TOY = {
    "sd3.5-medium": {
        "num_layers": 4, "num_attention_heads": 2, "caption_projection_dim": 128, "dual_attention_layers": (0, 1),
    },
    "flux.1": {"num_layers": 2, "num_single_layers": 3, "num_attention_heads": 1},
}  # fmt: skip


def model(name: str, toy: bool, device: str) -> dg.DiT:  # type: ignore[name-defined]
    """The stock pipeline with a transformer of this shape, weights drawn in place."""
    import tiny
    from diffusers import FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    flux, dtype = name.startswith("flux"), torch.float32 if toy else torch.bfloat16
    config = {**SHAPES[name], **(TOY[name] if toy else {})}
    kind: Any = FluxTransformer2DModel if flux else SD3Transformer2DModel
    with torch.device("meta"):
        transformer = kind(**config)
    transformer = transformer.to(dtype).to_empty(device=device).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for value in (*transformer.parameters(), *transformer.buffers()):
            value.normal_(std=0.02)
    clip, t5 = tiny.clip_tokenizer(), tiny.t5_tokenizer()
    joint, pooled = config["joint_attention_dim"], config["pooled_projection_dim"]
    shared = {
        "transformer": transformer,
        "scheduler": tiny.sd3().scheduler,
        "vae": tiny.vae(halvings=3, channels=16),
        "tokenizer": clip,
        "tokenizer_2": t5 if flux else clip,
    }
    if flux:
        pipeline: Any = FluxPipeline(
            text_encoder=tiny.clip(clip, CLIPTextModel, pooled), text_encoder_2=tiny.t5(t5, joint), **shared
        )
    else:
        texts = [tiny.clip(clip, CLIPTextModelWithProjection, pooled // 2) for _ in "ab"]
        pipeline = StableDiffusion3Pipeline(
            text_encoder=texts[0], text_encoder_2=texts[1], text_encoder_3=tiny.t5(t5, joint), tokenizer_3=t5, **shared
        )
    pipeline.set_progress_bar_config(disable=True)
    return dg.load(pipeline.to(device, dtype))


def variants(dit: dg.DiT, call: dict[str, Any]) -> dict[str, Callable[[], object]]:  # type: ignore[name-defined]
    """Every way that is timed; the first is what the others are compared with."""
    off = dg.Disrupt([3, 7], len(dit.blocks) // 3)
    both = dg.DetailGuidance(SCALE, WEIGHT, off)

    def sample(guidance: Any) -> Callable[[], object]:
        return lambda: run(dit, PROMPT, guidance=guidance, **call)

    def rows_of_three() -> object:
        with mock.patch.object(Passes, "fork", three_rows):
            return run(dit, PROMPT, guidance=both, **call)

    def whole() -> object:
        with ExitStack() as stack:
            stack.enter_context(dg.detail_guidance(dit, dg.DetailGuidance(None, WEIGHT, off), way="whole"))
            return run(dit, PROMPT, guidance=dg.CFG(SCALE), **call)

    ways = {"CFG": sample(dg.CFG(SCALE)), "CFG + DG": sample(both)}
    if dit.family.rows != "sequential":
        ways["CFG + DG, three rows from the first block"] = rows_of_three
    ways["CFG + DG, a second whole pass"] = whole
    ways["DG in the unconditional rows"] = sample(dg.DetailGuidance(SCALE, disrupt=off, rows="uncond"))
    ways["no guidance"] = sample(None)
    ways["CFG, captured"] = lambda: dg.capture(
        dit, PROMPT, guidance=dg.CFG(SCALE), seeds=0, progress=False, **call_of(call)
    )
    return ways


def call_of(call: dict[str, Any]) -> dict[str, Any]:
    """The same call, for `capture`."""
    return {k: v for k, v in call.items() if k != "seed"}


def timed(todo: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, dict[str, Any]]:
    """Seconds, ratios to the first and peak memory of every variant; printed."""
    cuda = torch.device(device).type == "cuda"
    peaks: dict[str, float] = {}

    def on_gpu(name: str) -> None:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        todo[name]()
        torch.cuda.synchronize()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20

    seconds = in_turns({name: partial(on_gpu, name) for name in todo} if cuda else todo, rounds)
    return table(seconds, next(iter(todo)), peaks, digits=4)


def main(
    toy: bool = typer.Option(False, help="tiny shapes in float32, for trying the script"),
    device: str = typer.Option("", help="cuda where there is one, else cpu"),
    rounds: int = typer.Option(7, help="medians over these"),
    steps: int = typer.Option(8, help="denoising steps"),
    only: str = typer.Option("", help="one of the two shapes"),
    out: Path = typer.Option(Path("benchmarks/results"), help="folder of the figures"),
) -> None:
    """Time both shapes, then with compiled blocks."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu" and not toy:
        raise typer.BadParameter("no accelerator here: a run at full size would take hours; try --toy")
    cuda = torch.device(device).type == "cuda"
    began = time.perf_counter()
    size = 64 if toy else 1024
    call: dict[str, Any] = {"seed": 0, "steps": steps, "height": size, "width": size, "max_sequence_length": 256}
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "toy": toy,
        "dtype": "float32" if toy else "bfloat16",
        "pixels": size,
        "steps": steps,
        "rounds": rounds,
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "diffusers")},
        "shapes": {},
    }
    out.mkdir(parents=True, exist_ok=True)
    name_of_device = record["device"].lower().replace(" ", "-")
    file = out / f"{'toy-' if toy else ''}{name_of_device}.json"
    for name in [only] if only else list(SHAPES):
        dit = model(name, toy, device)
        count = sum(p.numel() for p in dit.transformer.parameters())
        print(
            f"{name}: {count / 1e6:,.0f} million parameters, {len(dit.blocks)} blocks, {record['device']}", flush=True
        )
        shape: dict[str, Any] = {"parameters": count, "blocks": len(dit.blocks)}
        record["shapes"][name] = shape
        shape["as they are"] = timed(variants(dit, call), rounds, device)
        for block in dit.blocks:
            block.module.compile()
        print("  with compiled blocks:", flush=True)
        todo = variants(dit, call)
        kept = ("CFG", "CFG + DG", "DG in the unconditional rows", "CFG, captured")
        shape["compiled blocks"] = timed({k: todo[k] for k in kept}, rounds, device)
        record["seconds"] = round(time.perf_counter() - began, 1)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")  # after each: a run may be cut short
        del dit, todo
        if cuda:
            torch.cuda.empty_cache()
    print(f"{record['seconds']:.0f} s in all; {file}")


if __name__ == "__main__":
    typer.run(main)
