"""A tiny FLUX.2-dev: Klein's blocks with a guidance embedding, and a pipeline without classifier-free guidance."""

import tiny
import tiny_flux2
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline, Flux2Transformer2DModel
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

PROMPTS = ("a red apple", "two teapots")
SIZE = tiny.SIZE
CALL = {"steps": 3, "max_sequence_length": 16, "text_encoder_out_layers": (0, 1, 1)}
STOCK = {}
HALVES = None
NEGATIVE = False
SCALE = None  # its call has no CFG scale
zero = tiny.zero_last_tokens


def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny.byte_tokenizer()
        tokenizer.chat_template = "{{ messages[-1]['content'][0]['text'] }}."
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = Mistral3Config(
            text_config={
                **sizes,
                "model_type": "mistral",
                "num_key_value_heads": 2,
                "head_dim": 16,
                "vocab_size": len(tokenizer),
            },
            vision_config={**sizes, "model_type": "pixtral", "head_dim": 16, "image_size": 28, "patch_size": 14},
        )
        transformer = Flux2Transformer2DModel(**tiny_flux2.TRANSFORMER, guidance_embeds=True)
        made = Flux2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=tiny_flux2.vae(),
            text_encoder=Mistral3ForConditionalGeneration(config).eval(),
            tokenizer=tokenizer,
            transformer=tiny_flux2.quieter(tiny.enliven(transformer)),
        )
    made.set_progress_bar_config(disable=True)
    return made
