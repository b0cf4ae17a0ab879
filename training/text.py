"""Text: word-level tokenizers and tiny CLIP and T5 encoders, trained from nothing along with the DiT.

The encoders are the stock classes, called as the pipelines call them. SD3: the last hidden state but one of two CLIPs
side by side, padded to the T5 width, then the T5 rows; the pooled vector is both CLIPs' own. FLUX: the T5 rows alone,
and CLIP's pooled vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from training.recipe import Recipe


def clip_tokenizer(words: list[str], length: int) -> CLIPTokenizer:
    """One token a word; a word not in the list falls to bytes."""
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet + [c + "</w>" for c in alphabet])}
    vocab["<|startoftext|>"], vocab["<|endoftext|>"] = len(vocab), len(vocab) + 1
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)
    tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=True) for w in words if len(w) > 1])
    return tokenizer


def t5_tokenizer(words: list[str]) -> T5Tokenizer:
    """One piece a word, single characters below that; the length is said in each call (`max_sequence_length`)."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0)]
    pieces += [("\u2581" + w, -1.0) for w in words] + [(chr(c), -8.0) for c in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_config(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """Two layers."""
    dit = recipe.dit
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=dit.clip_width,
        intermediate_size=4 * dit.clip_width,
        projection_dim=dit.clip_width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=dit.clip_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_config(recipe: Recipe, tokenizer: T5Tokenizer, layers: int) -> T5Config:
    """An encoder without dropout."""
    dit = recipe.dit
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=dit.t5_width,
        d_kv=dit.t5_width // 4,
        d_ff=2 * dit.t5_width,
        num_layers=layers,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def token_ids(tokenizer: CLIPTokenizer | T5Tokenizer, captions: list[str], length: int) -> torch.Tensor:
    """(captions, length), padded or cut."""
    return tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


@dataclass
class SD3Text:
    """Two CLIP text models, a T5 encoder and their tokenizers."""

    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer
    clip_1: CLIPTextModelWithProjection
    clip_2: CLIPTextModelWithProjection
    t5: T5EncoderModel
    clip_length: int
    t5_length: int

    @classmethod
    def build(cls, recipe: Recipe, words: list[str]) -> SD3Text:
        """Untrained encoders of the recipe's sizes."""
        dit = recipe.dit
        clip_tok, t5_tok = clip_tokenizer(words, dit.clip_length), t5_tokenizer(words)
        clip, t5 = clip_config(recipe, clip_tok), t5_config(recipe, t5_tok, layers=1)
        encoders = CLIPTextModelWithProjection(clip), CLIPTextModelWithProjection(clip), T5EncoderModel(t5)
        return cls(clip_tok, t5_tok, *encoders, dit.clip_length, dit.t5_length)

    def modules(self) -> torch.nn.ModuleDict:
        """The trainable parts under the pipeline's own names."""
        return torch.nn.ModuleDict(
            {"text_encoder": self.clip_1, "text_encoder_2": self.clip_2, "text_encoder_3": self.t5}
        )

    def __call__(self, captions: list[str], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompt embeddings (batch, clip_length + t5_length, t5_width) and pooled (batch, 2 x clip_width)."""
        clip_ids = token_ids(self.clip_tokenizer, captions, self.clip_length)
        return self.encode(clip_ids.to(device), token_ids(self.t5_tokenizer, captions, self.t5_length).to(device))

    def encode(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same from token ids (batch, clip_length) and (batch, t5_length)."""
        outputs = [clip(clip_ids, output_hidden_states=True) for clip in (self.clip_1, self.clip_2)]
        t5 = self.t5(t5_ids)[0]
        clip = torch.cat([o.hidden_states[-2] for o in outputs], dim=-1)
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5], dim=1), torch.cat([o[0] for o in outputs], dim=-1)


@dataclass
class FluxText:
    """A CLIP text model, of which FLUX takes the pooled vector, and a T5 encoder, which alone gives the text tokens."""

    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer
    clip: CLIPTextModel
    t5: T5EncoderModel
    clip_length: int
    t5_length: int

    @classmethod
    def build(cls, recipe: Recipe, words: list[str]) -> FluxText:
        """Untrained encoders of the recipe's sizes."""
        dit = recipe.dit
        clip_tok, t5_tok = clip_tokenizer(words, dit.clip_length), t5_tokenizer(words)
        clip, t5 = clip_config(recipe, clip_tok), t5_config(recipe, t5_tok, layers=2)
        return cls(clip_tok, t5_tok, CLIPTextModel(clip), T5EncoderModel(t5), dit.clip_length, dit.t5_length)

    def modules(self) -> torch.nn.ModuleDict:
        """The trainable parts under the pipeline's own names."""
        return torch.nn.ModuleDict({"text_encoder": self.clip, "text_encoder_2": self.t5})

    def __call__(self, captions: list[str], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompt embeddings (batch, t5_length, t5_width) and pooled (batch, clip_width)."""
        pooled = self.clip(token_ids(self.clip_tokenizer, captions, self.clip_length).to(device)).pooler_output
        return self.t5(token_ids(self.t5_tokenizer, captions, self.t5_length).to(device))[0], pooled
