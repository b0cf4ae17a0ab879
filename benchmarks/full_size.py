"""Does the road hold at full size? SD3-medium's transformer with random weights: capture, detection, DG + CFG.

Two billion parameters in bfloat16 on a CPU, 256 pixels, two steps; text encoders and VAE are tiny. Prints the time of
each part and the peak memory of the process. Random weights say nothing about massive activations: one channel is
planted, so that detection has something to find.

    make full
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

import dg_tools as dg
from benchmarks.layouts import resident

CONFIG = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 192,
}  # fmt: skip
PLANTED, SIZE, STEPS = 810, 256, 2


def transformer() -> Any:
    """Random weights, filled in place: the class's own initialisation would take longer than the run."""
    with torch.device("meta"):
        model = SD3Transformer2DModel(**CONFIG)
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        model.pos_embed.pos_embed.normal_(std=0.5)
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        for block in model.transformer_blocks:  # a constant in one channel, written by every MLP
            gate = block.norm1.linear.bias
            gate[5 * 1536 + PLANTED] = 1.0
            block.norm1.linear.weight[5 * 1536 + PLANTED] = 0.0
            block.ff.net[2].bias[PLANTED] = 2.0
    return model


def pipeline() -> Any:
    """The stock pipeline around it."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
    import tiny

    c_tok, t_tok = tiny.clip_tokenizer(), tiny.t5_tokenizer()
    texts = [tiny.clip(c_tok, CLIPTextModelWithProjection, 1024).bfloat16() for _ in "ab"]
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny.vae(halvings=3, channels=16).bfloat16(),
        text_encoder=texts[0],
        tokenizer=c_tok,
        text_encoder_2=texts[1],
        tokenizer_2=c_tok,
        text_encoder_3=tiny.t5(t_tok, 4096).bfloat16(),
        tokenizer_3=t_tok,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main() -> None:
    """Run everything once and print what it took."""
    seconds, last = {}, time.perf_counter()

    def part(name: str) -> None:
        nonlocal last
        seconds[name] = round(time.perf_counter() - last, 1)
        print(f"{name:22} {seconds[name]:7.1f} s   {resident(peak=True) / 1024:5.1f} GiB at most so far", flush=True)
        last = time.perf_counter()

    dit = dg.load(pipeline())
    print(dit)
    part("build")
    call = {"steps": STEPS, "height": SIZE, "width": SIZE, "max_sequence_length": 16}
    acts = dg.capture(dit, "a red apple", seeds=0, **call)
    part("capture")
    mas = dg.find_massive(acts)
    print(mas)
    part("detection")
    block = len(dit.blocks) // 2
    off = dg.Disrupt([PLANTED], block)
    pair = dg.generate(dit, "a red apple", seed=0, guidance=[dg.CFG(4.0), dg.DetailGuidance(4.0, 0.5, off)], **call)
    part("CFG, and DG + CFG")
    assert PLANTED in mas.channels and pair.latents.isfinite().all()
    change = (pair.latents[1] - pair.latents[0]).norm() / pair.latents[0].norm()
    print(f"CFG {pair.seconds[0]:.1f} s, DG + CFG {pair.seconds[1]:.1f} s; the latents differ by {change:.1%}")
    record = {"seconds": seconds, "peak_GiB": round(resident(peak=True) / 1024, 2), "channels": mas.channels}
    Path("build").mkdir(exist_ok=True)
    Path("build/full_size.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
