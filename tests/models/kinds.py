"""Every pipeline of diffusers over a FLUX.1 or SD3 transformer, tiny: how each is built, and how each is called."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import diffusers
import tiny
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel, SD3ControlNetModel, SD3Transformer2DModel

HEIGHT, WIDTH = tiny.SIZE["height"], tiny.SIZE["width"]


@cache
def picture(seed: int = 0) -> torch.Tensor:
    """A picture (1, 3, H, W) in [0, 1]."""
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def mask() -> torch.Tensor:
    """The right half of the picture."""
    return (torch.arange(WIDTH) > WIDTH // 2).float().expand(1, 1, HEIGHT, WIDTH)


def flux_transformer(in_channels: int) -> FluxTransformer2DModel:
    """A FLUX.1 transformer whose input has further channels, as Fill's and Control's has."""
    return tiny.enliven(
        FluxTransformer2DModel(
            patch_size=1,
            in_channels=in_channels,
            out_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.JOINT,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
    )


def sd3_transformer(channels: int) -> SD3Transformer2DModel:
    """An SD3 transformer for latents of another number of channels."""
    return tiny.enliven(
        SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=channels,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.JOINT,
            caption_projection_dim=tiny.WIDTH,
            pooled_projection_dim=32,
            out_channels=channels,
            pos_embed_max_size=16,
        )
    )


def flux_controlnet() -> FluxControlNetModel:
    net = FluxControlNetModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=tiny.JOINT,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    return tiny.enliven(net)


def sd3_controlnet(extra: int = 0) -> SD3ControlNetModel:
    net = SD3ControlNetModel(
        sample_size=16,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=tiny.JOINT,
        caption_projection_dim=tiny.WIDTH,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
        extra_conditioning_channels=extra,
    )
    return tiny.enliven(net)


NAMES = [
    *(f"Flux{kind}Pipeline" for kind in ("", "Fill", "Control", "ControlImg2Img", "ControlInpaint", "ControlNet")),
    *(f"Flux{kind}Pipeline" for kind in ("ControlNetImg2Img", "ControlNetInpaint", "Kontext", "KontextInpaint")),
    *(f"Flux{kind}Pipeline" for kind in ("Img2Img", "Inpaint")),
    *(f"StableDiffusion3{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetInpainting")),
]


def pipeline(name: str) -> Any:
    """A tiny pipeline of the class of this name."""
    kind = getattr(diffusers, name)
    family = "flux" if name.startswith("Flux") else "sd3"
    parts = dict(tiny.PIPELINES[family]().components)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if name == "FluxFillPipeline":
            parts["transformer"] = flux_transformer(16 + 16 + 4 * 4)
        if name.startswith("FluxControl") and "Net" not in name:
            parts["transformer"] = flux_transformer(32)
        if name == "StableDiffusion3InpaintPipeline":  # it takes a transformer of 16 or of 33 channels
            parts["vae"] = tiny.vae(channels=16)
            parts["transformer"] = sd3_transformer(16)
        if "ControlNet" in name:
            inpainting = 1 if "Inpainting" in name else 0
            parts["controlnet"] = flux_controlnet() if family == "flux" else sd3_controlnet(inpainting)
    takes = inspect.signature(kind.__init__).parameters
    pipe = kind(**{part: value for part, value in parts.items() if part in takes})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments(pipe: Any, scale: float, steps: int = 4) -> dict[str, Any]:
    """Arguments of its call, besides the generator: half of the steps run where it takes a strength."""
    takes = inspect.signature(pipe.__call__).parameters
    call: dict[str, Any] = {"prompt": "a", "num_inference_steps": steps, "max_sequence_length": 8}
    call |= {"height": HEIGHT, "width": WIDTH, "output_type": "latent"}
    pictures = {"image": picture(), "control_image": picture(1), "mask_image": mask(), "control_mask": mask()}
    call |= {name: value for name, value in pictures.items() if name in takes}
    call |= {"strength": 0.5} if "strength" in takes else {}
    call |= {"_auto_resize": False, "max_area": HEIGHT * WIDTH} if "_auto_resize" in takes else {}
    flux = type(pipe).__name__.startswith("Flux")
    if flux and "true_cfg_scale" in takes:
        call |= {"true_cfg_scale": scale, "negative_prompt": "" if scale > 1 else None}
    if not flux:
        call["guidance_scale"] = scale
    return call


def takes_cfg(name: str) -> bool:
    """Whether the pipeline of this name takes a CFG scale."""
    takes = inspect.signature(getattr(diffusers, name).__call__).parameters
    return "true_cfg_scale" in takes or not name.startswith("Flux")
