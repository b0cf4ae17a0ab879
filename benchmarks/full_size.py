"""Does the road hold at full size? SD3-medium's transformer with random weights: capture, detection, DG + CFG,
`verify`, and a report.

Two billion parameters on a CPU, 256 pixels, two steps; text encoders and VAE are tiny. In float32: a CPU that has no
bfloat16 of its own takes seven times as long in it. Prints the time of each part and the peak memory of the process.
Random weights say nothing about massive activations: one channel is planted, so that detection has something to find.
They draw noise: the report says so, and judges nothing but the channels.

    make full
    python -m benchmarks.full_size verify report    # some of the parts: road, verify, report
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

import dg_tools as dg
from benchmarks.layouts import resident
from dg_tools.report import measure
from dg_tools.report.extent import QUICK
from dg_tools.report.verdict import HOLDS, NOT_TESTED
from dg_tools.verification import verify

CONFIG = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 192,
}  # fmt: skip
PLANTED, SIZE, STEPS = 810, 256, 2
VERIFIED = 64  # pixels: verify takes many forwards, and its checks do not depend on the size
EXTENT = replace(QUICK, test=2, draws=2, seeds=1)  # some 75 forwards


def transformer() -> Any:
    """Random weights, filled in place: the class's own initialisation would take longer than the run."""
    with torch.device("meta"):
        model = SD3Transformer2DModel(**CONFIG)
    model = model.to_empty(device="cpu").eval()
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
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
    import tiny

    c_tok, t_tok = tiny.clip_tokenizer(), tiny.t5_tokenizer()
    texts = [tiny.clip(c_tok, CLIPTextModelWithProjection, 1024) for _ in "ab"]
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny.vae(halvings=3, channels=16),
        text_encoder=texts[0],
        tokenizer=c_tok,
        text_encoder_2=texts[1],
        tokenizer_2=c_tok,
        text_encoder_3=tiny.t5(t_tok, 4096),
        tokenizer_3=t_tok,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Parts:
    """The time of each part, and the peak memory of the process so far, printed and kept."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, name: str) -> None:
        """Say that a part is over."""
        seconds = self.seconds[name] = round(time.perf_counter() - self.last, 1)
        print(f"{name:22} {seconds:7.1f} s   {resident(peak=True) / 1024:5.1f} GiB at most so far", flush=True)
        self.last = time.perf_counter()


def road(dit: dg.DiT, part: Parts) -> None:  # type: ignore[name-defined]
    """Capture, detection, DG + CFG."""
    call = {"steps": STEPS, "height": SIZE, "width": SIZE}
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


def verified(dit: dg.DiT, part: Parts) -> None:  # type: ignore[name-defined]
    """`dg-tools verify`."""
    found = verify(dit, steps=STEPS, height=VERIFIED, width=VERIFIED, progress=True)
    part("verify")
    assert found.ok, found


def reported(dit: dg.DiT, part: Parts) -> None:  # type: ignore[name-defined]
    """`dg-tools report`, with less of everything than `quick` has: the channel is found, and noise is not judged."""
    folder = Path("build/full_size")
    shutil.rmtree(folder, ignore_errors=True)  # what is kept of a stopped run would not be timed
    report = measure(dit, out=folder, size=EXTENT, steps=STEPS, height=SIZE, width=SIZE)
    part("report")
    print(report.section("cost").tables[0].title, *report.section("cost").tables[0].rows, sep="\n")
    for row in report.claims:
        print(f"{row.status:12} {row.key}: {row.why}")
    missing = {section.key: section.missing for section in report.sections if section.missing}
    print(*(f"{key}: {why}" for key, why in missing.items()), sep="\n")
    assert PLANTED in {row[0] for row in report.section("channels").tables[0].rows}
    status = {row.key: row.status for row in report.claims}
    assert status["capable"] != HOLDS and {status[key] for key in status if key.startswith("auto ")} == {NOT_TESTED}
    assert "dose" in missing and report.profile is None


PARTS = {"road": road, "verify": verified, "report": reported}


def main(names: list[str]) -> None:
    """Run the parts, all where none is named, and print what they took."""
    part = Parts()
    dit = dg.load(pipeline())
    dit.call = {"max_sequence_length": 16}
    print(dit)
    part("build")
    for name in names or PARTS:
        PARTS[name](dit, part)
    record = {"seconds": part.seconds, "peak_GiB": round(resident(peak=True) / 1024, 2), "channel": PLANTED}
    Path("build").mkdir(exist_ok=True)
    Path("build/full_size.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
