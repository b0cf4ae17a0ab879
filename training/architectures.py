"""Which transformer is trained: SD3's or FLUX.1's class, each built, called and exported the stock way.

An architecture says four things: the untrained transformer (every block starts as the identity), what the text encoders
give it, how it is called on latents, and the pipeline that it ships in, with what the card says of it. The training
loop knows none of this.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from training.recipe import Recipe
from training.text import FluxText, SD3Text


def start_at_zero(layers: list[torch.nn.Linear]) -> None:
    """Zero weights and biases: AdaLN gates and the output projection, which diffusers does not zero by itself."""
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


class SD3:
    """SD3Transformer2DModel with qk rms-norm, as SD3.5-medium's with `dual_attention`; two CLIPs and a T5."""

    text = SD3Text
    name = StableDiffusion3Pipeline.__name__
    cfg = ("guidance_scale=3.0",)  # CFG in the pipeline's own call
    why = "the model was trained with that many T5 rows, and the pipeline's own\ndefault would append 256"

    @staticmethod
    def words(recipe: Recipe) -> str:
        """The transformer and its text encoders, for the card."""
        dit = recipe.dit
        dual = ", the first half with a second attention over the image" if dit.dual_attention else ""
        return (
            f"{dit.layers} blocks{dual}, qk rms-norm; two CLIP text models of width {dit.clip_width} and a T5 of width "
            f"{dit.t5_width}, trained along"
        )

    @staticmethod
    def build(recipe: Recipe) -> SD3Transformer2DModel:
        dit = recipe.dit
        model = SD3Transformer2DModel(
            sample_size=recipe.latent_size,
            patch_size=dit.patch,
            in_channels=recipe.vae.latent_channels,
            out_channels=recipe.vae.latent_channels,
            num_layers=dit.layers,
            attention_head_dim=dit.head_dim,
            num_attention_heads=dit.heads,
            joint_attention_dim=dit.t5_width,
            caption_projection_dim=dit.heads * dit.head_dim,
            pooled_projection_dim=2 * dit.clip_width,
            pos_embed_max_size=2 * recipe.latent_size // dit.patch,
            qk_norm="rms_norm",
            dual_attention_layers=tuple(range(dit.layers // 2)) if dit.dual_attention else (),
        )
        zero = [model.norm_out.linear, model.proj_out]
        for block in model.transformer_blocks:
            zero += [block.norm1.linear, block.norm1_context.linear]
        start_at_zero(zero)
        return model

    @staticmethod
    def blocks(model: Any) -> list[torch.nn.Module]:
        """Every block in execution order; each returns (text, image)."""
        return [*model.transformer_blocks]

    @staticmethod
    def velocity(model: Any, latents: torch.Tensor, text: tuple, sigma: torch.Tensor) -> torch.Tensor:
        """Predicted noise - x for latents (batch, channels, h, w) at sigma (batch,)."""
        embeds, pooled = text
        return model(latents, embeds, pooled, sigma * 1000, return_dict=False)[0]

    @staticmethod
    def pipeline(model: Any, text: SD3Text, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
        return StableDiffusion3Pipeline(
            transformer=model,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=vae,
            text_encoder=text.clip_1,
            tokenizer=text.clip_tokenizer,
            text_encoder_2=text.clip_2,
            tokenizer_2=text.clip_tokenizer,
            text_encoder_3=text.t5,
            tokenizer_3=text.t5_tokenizer,
        )

    @staticmethod
    def call(recipe: Recipe) -> dict[str, int]:
        """What the pipeline's call must be given: its own defaults are made for the full-size model."""
        return {"max_sequence_length": recipe.dit.t5_length}


class Flux:
    """FluxTransformer2DModel with double and single blocks, no guidance distillation; one CLIP (pooled) and a T5."""

    text = FluxText
    name = FluxPipeline.__name__
    cfg = ('negative_prompt=""', "true_cfg_scale=3.0")  # guidance_scale is the distilled one: nothing here takes it
    why = (
        "the pipeline's own defaults are made for the\nfull-size model, larger pictures and 512 T5 rows; without a "
        "negative prompt it runs no CFG"
    )

    @staticmethod
    def words(recipe: Recipe) -> str:
        """The transformer and its text encoders, for the card."""
        dit = recipe.dit
        return (
            f"{dit.layers} double and {dit.single_layers} single blocks, qk rms-norm, no guidance embedding; a CLIP "
            f"text model of width {dit.clip_width} (pooled) and a T5 of width {dit.t5_width}, trained along"
        )

    @staticmethod
    def build(recipe: Recipe) -> FluxTransformer2DModel:
        dit = recipe.dit
        row = dit.head_dim // 9 * 4  # rotary positions: rows and columns share most of a head, the text index the rest
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=recipe.vae.latent_channels * dit.patch**2,
            num_layers=dit.layers,
            num_single_layers=dit.single_layers,
            attention_head_dim=dit.head_dim,
            num_attention_heads=dit.heads,
            joint_attention_dim=dit.t5_width,
            pooled_projection_dim=dit.clip_width,
            guidance_embeds=False,
            axes_dims_rope=(dit.head_dim - 2 * row, row, row),
        )
        zero = [model.norm_out.linear, model.proj_out]
        for block in model.transformer_blocks:
            zero += [block.norm1.linear, block.norm1_context.linear]
        zero += [block.norm.linear for block in model.single_transformer_blocks]
        start_at_zero(zero)
        return model

    @staticmethod
    def blocks(model: Any) -> list[torch.nn.Module]:
        """Every block in execution order; each returns (text, image)."""
        return [*model.transformer_blocks, *model.single_transformer_blocks]

    @staticmethod
    def velocity(model: Any, latents: torch.Tensor, text: tuple, sigma: torch.Tensor) -> torch.Tensor:
        """Predicted noise - x for latents (batch, channels, h, w) at sigma (batch,); packed as the pipeline packs."""
        embeds, pooled = text
        batch, _, height, width = latents.shape
        ids = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, latents.device, latents.dtype)
        packed = model(
            hidden_states=FluxPipeline._pack_latents(latents, *latents.shape),
            timestep=sigma,
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, device=latents.device, dtype=latents.dtype),
            img_ids=ids,
            return_dict=False,
        )[0]
        return FluxPipeline._unpack_latents(packed, height, width, 1)

    @staticmethod
    def pipeline(model: Any, text: FluxText, vae: AutoencoderKL) -> FluxPipeline:
        return FluxPipeline(
            transformer=model,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=vae,
            text_encoder=text.clip,
            tokenizer=text.clip_tokenizer,
            text_encoder_2=text.t5,
            tokenizer_2=text.t5_tokenizer,
        )

    @staticmethod
    def call(recipe: Recipe) -> dict[str, int]:
        """What the pipeline's call must be given: its own defaults are made for the full-size model."""
        return {"height": recipe.size, "width": recipe.size, "max_sequence_length": recipe.dit.t5_length}


ARCHITECTURES: dict[str, Any] = {"sd3": SD3, "flux": Flux}
