"""Tiny pipelines of the real classes, with random weights: what the tests run on instead of mocks."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
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
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 32  # of the residual stream: 2 heads x 16
JOINT = 32  # of the text embeddings


def clip_tokenizer() -> CLIPTokenizer:
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet + [c + "</w>" for c in alphabet])}
    vocab["<|startoftext|>"], vocab["<|endoftext|>"] = len(vocab), len(vocab) + 1
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    return T5Tokenizer(vocab=pieces + [(chr(c), -3.0) for c in range(33, 127)], extra_ids=0, model_max_length=16)


def byte_tokenizer() -> Qwen2Tokenizer:
    vocab = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
    return Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)


def clip(tokenizer: CLIPTokenizer, kind: type, width: int = 16, positions: int = 16) -> Any:
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=positions,
            **ids,
        )
    ).eval()


def t5(tokenizer: T5Tokenizer, width: int = JOINT) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=16, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0
    )
    return T5EncoderModel(config).eval()


def vae(halvings: int = 1, channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[8] * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.05,
    ).eval()


def enliven(transformer: torch.nn.Module) -> Any:
    """Larger random weights, so that every block and the text matter to the output."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15 if "norm" in name else 0.25)
    return transformer.eval()


def sd3(seed: int = 0, blocks: int = 4, **config: Any) -> StableDiffusion3Pipeline:
    """SD3: 4 blocks or others, patch 2, 2x VAE: 16 pixels make 4 tokens along a side."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        c_tok, t_tok = clip_tokenizer(), t5_tokenizer()
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=blocks,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=JOINT,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=16,
            **config,
        )
        pipeline = StableDiffusion3Pipeline(
            transformer=enliven(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(),
            text_encoder=clip(c_tok, CLIPTextModelWithProjection),
            tokenizer=c_tok,
            text_encoder_2=clip(c_tok, CLIPTextModelWithProjection),
            tokenizer_2=c_tok,
            text_encoder_3=t5(t_tok),
            tokenizer_3=t_tok,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flux(seed: int = 0, guidance_embeds: bool = False, double: int = 2, single: int = 3) -> FluxPipeline:
    """FLUX.1: some double blocks and some single ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        c_tok, t_tok = clip_tokenizer(), t5_tokenizer()
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=JOINT,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
        pipeline = FluxPipeline(
            transformer=enliven(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=vae(),
            text_encoder=clip(c_tok, CLIPTextModel),
            tokenizer=c_tok,
            text_encoder_2=t5(t_tok),
            tokenizer_2=t_tok,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


PIPELINES = {
    "sd3": sd3,
    "sd35-medium": partial(sd3, qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    "sd35-large": partial(sd3, qk_norm="rms_norm"),
    "flux": flux,
    "flux-distilled": partial(flux, guidance_embeds=True),
}


def zero_second(output: tuple, channels: list[int], tokens: int) -> tuple:
    """What a block returned, as (text, image), with channels of the image stream at zero."""
    image = output[1].clone()
    image[..., channels] = 0
    return output[0], image


def zero_first(output: tuple, channels: list[int], tokens: int) -> tuple:
    """The same of (image, text)."""
    return zero_second(output[::-1], channels, tokens)[::-1]


def zero_tensor(output: torch.Tensor, channels: list[int], tokens: int) -> torch.Tensor:
    """The same of the image stream alone."""
    return zero_second((None, output), channels, tokens)[1]


def zero_last_tokens(output: Any, channels: list[int], tokens: int) -> Any:
    """The same of one sequence that ends with `tokens` image tokens, or of (text, image)."""
    if isinstance(output, tuple):
        return zero_second(output, channels, tokens)
    changed = output.clone()
    changed[:, output.shape[1] - tokens :, channels] = 0
    return changed


def families() -> dict[str, Any]:
    """The families beyond these, one file `tiny_NAME.py` each: `pipeline()`, and how it is called."""
    files = sorted(Path(__file__).parent.glob("tiny_*.py"))
    return {f.stem.removeprefix("tiny_"): import_module(f.stem) for f in files}


SIZE = {"height": 32, "width": 48}  # never square: 8 x 12 tokens
CALL = {**SIZE, "steps": 3, "max_sequence_length": 8}


def plant(pipeline: Any, block: int, channels: list[int], value: float) -> None:
    """Plant massive channels: a constant added to the image stream by this block's MLP, whatever the input."""
    target = pipeline.transformer.transformer_blocks[block]
    last = target.ff.net[2]
    with torch.no_grad():
        gate = target.norm1.linear
        begin = 5 * WIDTH  # gate_mlp is the sixth chunk
        for c in channels:
            gate.weight[begin + c] = 0
            gate.bias[begin + c] = 1
            last.weight[c] = 0
            last.bias[c] = value
