"""State: transformer and text encoders in training, their average, the optimizer; saved, taken up, started warm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer, T5Tokenizer

from training.architectures import SD3
from training.average import Averaged
from training.scenes import keep
from training.scenes.recipe import SceneRecipe
from training.scenes.tokens import buffer, positions

ALIKE = {"3d": "shaded"}  # a word that another model does not know starts as one that it knows
TOKEN_TABLES = ("token_embedding.weight", "shared.weight", "encoder.embed_tokens.weight")


class State(Averaged):
    """Weights in training and their average.

    Attributes:
        device: a GPU if there is one.
        model: `transformer` and the text encoders under the pipeline's names.
        text: captions in, embeddings out.
        average: of the weights, in the order of `parameters`.
        places: position embeddings of the full grid.
        step: steps so far; `history` has one row for each run.
        start: what the first weights were, in words, for the card.
    """

    recipe: SceneRecipe

    def __init__(self, recipe: SceneRecipe, run: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.run = recipe, run
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        words = json.loads((run / "words.json").read_text(encoding="utf-8"))
        self.text = SD3.text.build(recipe, words)
        self.model = torch.nn.ModuleDict({"transformer": SD3.build(recipe), **self.text.modules()})
        width = recipe.dit.heads * recipe.dit.head_dim
        embed = self.transformer.pos_embed
        embed.pos_embed = buffer(embed.pos_embed_max_size, recipe.tokens, width)
        self.model.to(self.device)
        self.places = positions(recipe.tokens, recipe.tokens, width).to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.dit.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.history, self.start = 0, [], "random weights"  # type: tuple[int, list[dict[str, Any]], str]

    @property
    def transformer(self) -> Any:
        return self.model["transformer"]

    def save(self, path: Path, row: dict[str, Any]) -> None:
        """Write everything; `row` is this run's line of the history."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items() if k.split(".")[-2:] != ["embed_tokens"]}
        tensors |= {f"average.{i}": a for i, a in enumerate(self.average)}
        tensors |= keep.moments(self.optimizer, self.parameters)
        unique: dict[int, str] = {}
        tensors = {k: v for k, v in tensors.items() if unique.setdefault(v.data_ptr(), k) == k}  # T5 ties two tables
        keep.save(path, tensors, {"step": self.step, "history": [*self.history, row], "start": self.start})

    def load(self, path: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            SystemExit: the file has another shape than the recipe.
        """
        tensors, record = keep.load(path)
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        try:
            missing, _ = self.model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise SystemExit(f"{path} has another shape than recipe {self.recipe.name!r}: {error}") from None
        if [m for m in missing if not m.endswith(TOKEN_TABLES)]:
            raise SystemExit(f"{path} lacks {missing[:3]} of recipe {self.recipe.name!r}")
        self.average = [tensors[f"average.{i}"].to(self.device) for i in range(len(self.parameters))]
        keep.restore(self.optimizer, self.parameters, tensors)
        self.step, self.history, self.start = record["step"], record["history"], record["start"]

    @torch.no_grad()
    def warm_start(self, folder: Path) -> list[str]:
        """Take the weights of an exported model where name and shape agree; words by their spelling.

        Returns:
            The names of what was not taken.

        Raises:
            SystemExit: the folder holds no model of this kind.
        """
        if not (folder / "transformer").is_dir():
            raise SystemExit(f"{folder} has no transformer: pass a model folder")
        clip = words_of(CLIPTokenizer.from_pretrained(folder / "tokenizer"), self.text.clip_tokenizer)
        t5 = words_of(T5Tokenizer.from_pretrained(folder / "tokenizer_3"), self.text.t5_tokenizer)
        left = []
        for part, module in self.model.items():
            tensors: dict[str, torch.Tensor] = {}
            for file in sorted((folder / part).glob("*.safetensors")):
                tensors |= load_file(file)
            rows = t5 if part == "text_encoder_3" else clip
            for name, own in module.named_parameters():
                value = tensors.get(name)
                if value is None and name.endswith(TOKEN_TABLES):
                    value = next((v for k, v in tensors.items() if k.endswith(TOKEN_TABLES)), None)
                if value is not None and name.endswith(TOKEN_TABLES) and value.shape[1:] == own.shape[1:]:
                    ours, theirs = (torch.tensor(side) for side in zip(*rows, strict=True))
                    own[ours] = value.float()[theirs].to(own.device)
                elif value is not None and value.shape == own.shape:
                    own.copy_(value.float())
                else:
                    left.append(f"{part}.{name}")
        self.average = [p.detach().clone() for p in self.parameters]
        self.start = f"the weights of {folder.name} where shapes allow ({len(left)} tensors did not)"
        return left


def words_of(theirs: Any, ours: Any) -> list[tuple[int, int]]:
    """Rows of the same word in two tables, (ours, theirs); `ALIKE` words take the row of another."""
    known, pairs = theirs.get_vocab(), []
    for word, row in ours.get_vocab().items():
        other = word if word in known else _like(word, known)
        if other is not None:
            pairs.append((row, known[other]))
    return pairs


def _like(word: str, known: dict[str, int]) -> str | None:
    """The known spelling of a word's stand-in, if it has one."""
    for new, old in ALIKE.items():
        swapped = word.replace(new, old)
        if new in word and swapped in known:
            return swapped
    return None
