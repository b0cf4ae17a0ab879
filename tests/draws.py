"""One draw of the random walk: the axes along which people's calls of a pipeline differ."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import tiny

FAMILIES = tiny.families()
NAMES = [*tiny.PIPELINES, *(name for name in FAMILIES if name != "dit")]
LATER = (  # their draws come after those of the others, which stay as they are
    *("qwen21", "ovis_image", "longcat_image", "bria", "krea2", "lumina2"),
    *("ernie_image", "hidream", "kandinsky5", "ltx", "cogvideox"),
)
SIDES = {"sana": 32, **dict.fromkeys(("wan", "qwen21", "lumina2", "kandinsky5", "ltx", "cogvideox"), 64)}  # pixels
SD3 = {"sd3", "sd35-medium", "sd35-large"}
TRUE_CFG = {"flux", "flux-distilled"}  # their usual scale is `true_cfg_scale`
FLUX2 = {"flux2", "flux2_dev"}
QWEN = {"qwen", "qwen_edit", "qwen_edit_plus"}
FLOW = SD3 | TRUE_CFG | FLUX2 | QWEN | {"chroma", "wan", "auraflow", "cogview4", "hunyuan_image", "z_image", "qwen21"}
SINGLE = {name for name, about in FAMILIES.items() if getattr(about, "SINGLE", False)}
NO_CFG = {
    name for name, about in FAMILIES.items() if getattr(about, "SCALE", "") is None and not hasattr(about, "set_scale")
}
HEUN = SD3 | {"wan"}  # the other pipelines set sigmas, which Heun does not take
# these have no list of attention processors to set
PROCESSORS = set(NAMES) - {"cogview4", "z_image", "qwen21", "ovis_image", "bria", "lumina2", "ernie_image", "hidream"}
# Kinds of `altered.KINDS`. torchao's int8 sums before it scales, and overflows in float16 where a plain layer does not;
# diffusers gives PixArt's transformer no adapters.
WEIGHTS = ("int8", "fp8", "lora", "model", "sequential", "leaves")
RESCALED = {name for name, about in FAMILIES.items() if hasattr(about, "afterwards")}
COND_FIRST = {name for name, about in FAMILIES.items() if about.HALVES == "cond, uncond"}


@dataclass(frozen=True)
class Draw:
    """One way to call a pipeline."""

    family: str
    kind: str
    call: str
    dtype: str
    scheduler: str
    steps: int
    prompts: int
    images: int
    callback: str
    window: tuple[float, float]
    size: tuple[int, int]
    processor: str
    scale: float
    weight: float
    block: int
    seed: int
    weights: str = "plain"
    compiled: bool = False


def draw(rng: random.Random, names: Sequence[str] = NAMES) -> Draw:
    """One draw of every axis, of one of these families."""
    family = rng.choice(names)
    kind = rng.choice(["text", "text", "img2img"]) if family in SD3 | TRUE_CFG else "text"
    schedulers = ["own", "euler", "unipc"] if family in FLOW else ["own"]
    if family in ("cogview4", "z_image") or kind == "img2img":
        # CogView4 sets timesteps, Z-Image a list of sigmas, and img2img scales noise; UniPC does none of these
        schedulers.remove("unipc")
    if family in HEUN:
        schedulers.append("heun")
    callbacks = ["none", "none", "calls", "latents", "scale", "embeds"]
    if family in SD3 and kind == "text":
        callbacks.append("cutoff")
    callback = rng.choice(callbacks)
    call = rng.choice(["with", "with", "generate"])
    if callback in ("scale", "cutoff") or family in FLUX2:
        # a guidance given to generate says its scale, and another is refused; FLUX.2 returns latents of another form
        call = "with"
    dtype = rng.choice(["float32", "float32", "bfloat16", "float16"])
    # in half precision the rounding of s c - guided is as large as the change; Kandinsky 5 cannot be cast
    if family in QWEN | RESCALED | {"kandinsky5"}:
        dtype = "float32"
    weights = [w for w in WEIGHTS if (w, dtype) != ("int8", "float16") and (w, family) != ("lora", "pixart")]
    side = SIDES.get(family, 16)
    sizes = [(2 * side, 3 * side), (3 * side, 2 * side), (2 * side, 2 * side)]
    return Draw(
        family=family,
        kind=kind,
        call=call,
        dtype=dtype,
        scheduler=rng.choice(schedulers),
        steps=rng.choice([2, 3, 5, 8]),
        prompts=1 if call == "generate" or family in SINGLE else rng.choice([1, 1, 2]),
        images=rng.choice([1, 1, 2]),
        callback=callback,
        window=rng.choice([(0.0, 1.0), (0.0, 1.0), (0.3, 0.8), (0.5, 1.0)]),
        size=rng.choice(getattr(FAMILIES.get(family), "SIZES", sizes)),
        processor=rng.choice(["stock", "stock", "stock", "hook", "halves" if family in PROCESSORS else "hook"]),
        scale=1.0 if family in NO_CFG else rng.choice([1.0, 3.0, 4.5]),
        weight=rng.choice([0.3, 0.7, 1.5]),
        block=rng.choice([0, 1, 2]),
        seed=rng.randrange(1000),
        weights=rng.choice([*["plain"] * len(weights), *weights]),
        compiled=rng.random() < 0.25,
    )
