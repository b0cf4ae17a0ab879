"""Draw the README's moving picture: four captions while their massive channel is multiplied by 0 to 2 and back.

    python -m tools.knob_gif    # docs/knob.gif

The captions, the noise and the channel are those of `make demo`; no frame is chosen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import dg_tools as dg
from dg_tools.demo import captions
from dg_tools.demo.bench import FIRST_SEED

GIF = Path(__file__).parents[1] / "docs" / "knob.gif"
DOSES = np.linspace(0, 2, 11)
PICTURES, SIDE, HEAD, GAP = 4, 176, 54, 8  # pixels
STEPS = 20
INK, LINE, MARK = "#333333", "#bbbbbb", "#0072b2"


def frame(pictures: list[Image.Image], rho: float) -> Image.Image:
    """The pictures in a row under a slider."""
    page = Image.new("RGB", (len(pictures) * (SIDE + GAP) - GAP, HEAD + SIDE), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    as_it_is = " (the model as it is)" if round(rho, 6) == 1 else ""
    draw.text((0, 2), f"massive channel x {rho:.2f}{as_it_is}", INK, font)
    left, right, y = 6, page.width - 6, 38
    draw.line((left, y, right, y), LINE, 3)
    for mark in (0, 0.5, 1, 1.5, 2):
        x = left + (right - left) * mark / 2
        draw.line((x, y - 5, x, y + 5), LINE, 2)
    x = left + (right - left) * rho / 2
    draw.ellipse((x - 7, y - 7, x + 7, y + 7), MARK)
    for i, picture in enumerate(pictures):
        page.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (i * (SIDE + GAP), HEAD))
    return page


def main() -> None:
    """Draw the pictures at each dose, and save them there and back."""
    dit = dg.load()
    prompts = [item.prompt for item in captions(dit)][:PICTURES]
    rows = []
    for i, prompt in enumerate(prompts):
        knobs = [dg.DetailKnob(rho=float(rho)) for rho in DOSES]
        rows.append(dg.generate(dit, prompt, seed=FIRST_SEED + i, steps=STEPS, guidance=knobs).images)
    frames = [frame([row[k] for row in rows], rho) for k, rho in enumerate(DOSES)]
    frames = [f.quantize(128, dither=Image.Dither.NONE) for f in (*frames, *frames[-2:0:-1])]
    times = [600 if i in (0, len(DOSES) // 2, len(DOSES) - 1) else 120 for i in range(len(frames))]
    frames[0].save(GIF, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
    print(f"{GIF.name}: {', '.join(prompts)}; {len(frames)} frames, {GIF.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
