"""Settings that cannot give a right result are refused by name, before the first forward. The docs print this table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Refusal:
    """One setting that is refused.

    Attributes:
        what: the setting, as a heading.
        sentence: the error's text, with fields in braces for the facts.
        instead: what to do.
        kind: the error's class; a RuntimeError where it depends on what else is on.
    """

    what: str
    sentence: str
    instead: str
    kind: type[Exception] = ValueError

    def error(self, **facts: object) -> Exception:
        """The error, with its facts."""
        return self.kind(f"{self.sentence.format(**facts)}: {self.instead.format(**facts)}")


REFUSALS = {
    "compiled": Refusal(
        "a transformer compiled as a whole",
        "this transformer is compiled as a whole, so that nothing can be read or changed between its blocks",
        "load it again and compile its blocks, with pipe.transformer.compile_repeated_blocks() or block.compile()",
    ),
    "compiled part": Refusal(
        "a block replaced by what `torch.compile` returned, or with a compiled `forward`",
        "{part} of this transformer was replaced by what torch.compile returned, or its forward was, which changes "
        "names and ignores hooks",
        "load it again and call {part}.compile() instead",
    ),
    "compiled twice": Refusal(
        "a compiled part inside a compiled block",
        "{part} is compiled, and so is {outer}, which it is a part of",
        "load it again and compile the blocks alone",
    ),
    "compiled inside": Refusal(
        "compiling inside an edit, a guidance or a capture",
        "this transformer was compiled while an edit, a guidance or a capture was on, so that it does not act",
        "compile it before",
        RuntimeError,
    ),
    "traced": Refusal(
        "traces of a compiled model",
        "a trace reads inside blocks, and the blocks of this transformer are compiled",
        "load it again without torch.compile for traces; capture, edits and guidance work on compiled blocks",
    ),
    "wrapped": Refusal(
        "compiled blocks of a model that was traced before",
        "the blocks of this transformer are compiled, and were wrapped for traces before",
        "call dit.unwrap(), which takes the wrapping off",
    ),
    "cache": Refusal(
        "step caches (`enable_cache`)",
        "{cache} is on for this transformer: it skips blocks from step to step, and would reuse values of a "
        "clean pass in a disrupted one",
        "call transformer.disable_cache() first",
    ),
    "pag": Refusal(
        "PAG pipelines",
        "a {pipeline} adds a third, perturbed row to the two of classifier-free guidance",
        "use the plain pipeline with dg.baselines.PAG",
    ),
    "second transformer": Refusal(
        "pipelines with two transformers (Wan 2.2)",
        "this {pipeline} hands over to a second transformer within a run, and dg_tools looks into one only",
        "use a pipeline with one transformer",
    ),
    "noise": Refusal(
        "noise on quantised weights, or on weights that are offloaded in parts (`AutoGuidance` without a weak model)",
        "noise is added to weight matrices, and this model's {what}",
        "pass weak_model=, or load the model in float32, bfloat16 or float16 and unfuse or unload its LoRA",
    ),
    "nested": Refusal(
        "a guidance inside a guidance",
        "a guidance is on for this transformer already ({guidance})",
        "close it first; a sum of guidances is not defined here",
        RuntimeError,
    ),
    "trace": Refusal(
        "a first trace inside a guidance",
        "this model is not wrapped for traces yet, and `dg.detail_guidance` is on",
        "read `dit.nnsight` once before",
        RuntimeError,
    ),
}

CACHES = {  # hook that a cache of diffusers sets -> name of the cache
    "faster_cache": "FasterCache",
    "fbc_": "FirstBlockCache",
    "mag_cache": "MagCache",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "sea_cache": "SeaCache",
    "taylorseer": "TaylorSeer",
    "text_kv_cache": "TextKVCache",
}


def page() -> str:
    """The table as a page of the documentation, `docs/refusals.md`."""
    lines = [
        "# What is refused",
        "",
        "What cannot give a right result is refused by name, before the first forward. Words in braces are filled in.",
        "",
        "| what | the error says | what to do |",
        "|---|---|---|",
    ]
    lines += [f"| {r.what} | {r.sentence} | {r.instead} |" for r in REFUSALS.values()]
    caches = ", ".join(CACHES.values())
    return "\n".join([*lines, "", f"Step caches that are known: {caches}.", ""])


def check_cache(transformer: torch.nn.Module) -> None:
    """Raise ValueError for a transformer on which one of diffusers' caches is on."""
    for name in hooks_of(transformer):
        for prefix, cache in CACHES.items():
            if name.startswith(prefix):
                raise REFUSALS["cache"].error(cache=cache)


def hooks_of(transformer: torch.nn.Module) -> Iterator[str]:
    """Names of diffusers' own hooks on a transformer and its parts."""
    for module in transformer.modules():
        registry = vars(module).get("_diffusers_hook")  # faster than asking for what most modules lack
        if registry is not None:
            yield from registry.hooks
