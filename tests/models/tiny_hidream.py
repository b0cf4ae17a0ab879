"""A tiny HiDream-I1: 2 double and 3 single blocks over 8 x 18 image tokens, padded to 196, and the text."""

import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HiDreamImagePipeline, HiDreamImageTransformer2DModel
from transformers import CLIPTextModelWithProjection, LlamaConfig, LlamaForCausalLM

PROMPTS = ("a red apple", "two teapots")
SIZE = {"height": 32, "width": 72}
SIZES = [(32, 72), (72, 32), (48, 48)]  # all of one area
CALL = {"steps": 3, "max_sequence_length": 8}
STOCK = {}
HALVES = "uncond, cond"
LIVE = True  # its loop reads the pipeline's own scale at each step
LAYERS = "encoder_hidden_states_llama3"  # has its rows second


def zero(output, channels, tokens):
    """(image, text), or one sequence; image tokens first, and padding after them."""
    if isinstance(output, tuple):
        return zero(output[0], channels, tokens), output[1]
    changed = output.clone()
    changed[:, :tokens, channels] = 0
    return changed


def given(inputs, latents, level):
    """A call with other latents, at a noise level."""
    return {**inputs, "hidden_states": latents, "timesteps": level}


def prediction(sample):
    """What the pipeline makes of what the transformer gives, as a velocity."""
    return -sample


def half(inputs, row):
    """One row of the inputs."""
    alone = {k: v[row : row + 1] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    return {**alone, LAYERS: inputs[LAYERS][:, row : row + 1]}


def pipeline(side=24):
    """`side`: of the latents of a square picture, whose area all pictures have."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        c_tok, t_tok, l_tok = tiny.clip_tokenizer(), tiny.t5_tokenizer(), tiny.byte_tokenizer()
        config = LlamaConfig(
            vocab_size=len(l_tok),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            attn_implementation="eager",
        )
        transformer = HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[32, 32],
            text_emb_dim=32,
            axes_dims_rope=(8, 4, 4),
            max_resolution=(28, 28),
            llama_layers=[0, 1, 2, 2, 1],
        )
        made = HiDreamImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny.vae(),
            text_encoder=tiny.clip(c_tok, CLIPTextModelWithProjection),
            tokenizer=c_tok,
            text_encoder_2=tiny.clip(c_tok, CLIPTextModelWithProjection),
            tokenizer_2=c_tok,
            text_encoder_3=tiny.t5(t_tok),
            tokenizer_3=t_tok,
            text_encoder_4=LlamaForCausalLM(config).eval(),
            tokenizer_4=l_tok,
            transformer=tiny.enliven(transformer),
        )
    made.default_sample_size = side
    made.set_progress_bar_config(disable=True)
    return made


def published():
    """With the area that the class states."""
    return pipeline(side=128)
