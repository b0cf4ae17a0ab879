"""The whole record, from what the probes found."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.families.inputs import ImageLast, Inputs
from dg_tools.proposal import layout
from dg_tools.proposal.block_list import propose_list
from dg_tools.proposal.cfg import Cfg
from dg_tools.proposal.runs import Forward, Runs
from dg_tools.proposal.streams import Chain, find_tail
from dg_tools.proposal.watched import Watched, is_bare

ALWAYS = (
    "config, pipeline_config: a run tells nothing of configurations that this checkpoint does not have",
    "defaults: text tokens at most are the call's max_sequence_length; a fixed number before them is not told",
    "call: arguments that change prompts or guidance, such as a normalisation, are not told: read the call",
    "tokenizers, scale_per_token, rescaling_switch, fit: read the pipeline's call",
    "image_first, products, crossed: what baselines must know of the attention is not told",
)


def assemble(
    runs: Runs,
    cfg: Cfg,
    latents: str,
    chains: list[Chain],
    base: Watched,
    pair: Watched | None,
    two: Forward | None,
    words: list[str],
) -> Family:
    """The record, without `fork` and `partial_forward`.

    Args:
        runs: calls of the pipeline.
        cfg: its guidance.
        latents: the transformer's input with the latents.
        chains: its lists of blocks.
        base, pair: a watched forward of one row, and one of two; None if two rows were not possible.
        two: the inputs of the forward of two rows.
        words: sentences on what was not found; more are appended.
    """
    transformer, off = runs.transformer, cfg.off
    one, config = off.forwards[0], runs.transformer.config
    lists = tuple(propose_list(chain, label(chain, len(chains)), config, words) for chain in chains)
    tail, tail_conditioning = find_tail(chains[-1], base)
    if not tail:
        words.append("tail: no module after the last block is given its image tokens")
    inputs = two.inputs if two is not None else {}
    row_inputs = layout.rows_of(one.inputs, inputs)
    conditioning = block_rows(chains, pair)
    if two is None:
        words.append("row_inputs, conditioning: no call of two rows could be made, so that these are not told")
    never_given(transformer, one.inputs, chains, words)
    if "image" in runs.takes and "image" not in runs.call:
        words.append("call: the pipeline takes an image too; where tokens of a reference picture stand is not told")
    side = layout.packing(runs, off, chains[-1], words)
    patch = side or layout.packing_of(transformer)
    grid = layout.grid_of(runs, off, patch)
    own = layout.own_tokens(off, chains[-1])
    scale, offset = layout.timestep_scale(off, words)
    return Family(
        name=name_of(transformer),
        transformer=type(transformer).__name__,
        lists=lists,
        rows=cfg.rows,
        timestep_scale=scale,
        timestep_offset=offset,
        packing=side,
        partial_forward=True,
        guidance_argument=cfg.guidance_argument,
        row_inputs=row_inputs,
        row_lists=tuple(n for n in row_inputs if isinstance(one.inputs[n], list)),
        ragged=any(len({len(x) for x in inputs[n]}) > 1 for n in row_inputs if isinstance(inputs[n], list)),
        inputs=ImageLast() if cfg.image_last else Inputs() if is_bare(transformer, one.inputs) else None,
        guiders=cfg.guiders,
        scale_offset=cfg.scale_offset,
        live_scale=cfg.live_scale,
        conditioning=conditioning,
        embedding=layout.embedding(chains, conditioning, {record.given for record in lists}),
        tail=tail or "norm_out",
        positions_are_flat=layout.is_flat(transformer),
        tail_conditioning=tail_conditioning,
        prediction=cfg.prediction,
        prompt=runs.prompt,
        negative_prompt="negative_prompt" in runs.takes,
        call=dict(runs.needed),
        free_call=tuple(n for n in runs.needed if n == "num_frames"),
        own_call=tuple(n for n in runs.needed if "cache" in n),
        pipelines=(type(runs.pipeline).__name__,),
        latents=layout.latents(runs, off, one.inputs[latents], words),
        rescaling=cfg.rescaling,
        contexts=cfg.contexts,
        defaults=layout.defaults(runs, words),
        positions=layout.positions(one.inputs, own, grid),
        shapes=layout.shapes(one.inputs, grid),
        sizes=layout.sizes(one.inputs, grid) if latents == "hidden_states" else (),
        layout=layout.axes(runs, off),
        patch_projection=layout.patch_projection(transformer),
        width_config=layout.width_config(transformer, chains[0].width, words),
        layer_norms=has_layer_norms(chains),
        class_count=layout.class_count(runs),
    )


def name_of(transformer: torch.nn.Module) -> str:
    """A short name, from the class: `MyThingTransformer2DModel` is `my-thing`."""
    short = re.sub(r"(Transformer)?([23]D)?(Model)?$", "", type(transformer).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", short).lower()


def label(chain: Chain, lists: int) -> str:
    """The prefix of a list's sites: none where it is the only one."""
    if lists == 1:
        return ""
    first = chain.path.split("_")[0]
    if first not in ("transformer", "blocks", "layers"):
        return first
    return "double" if chain.returns == "tuple" else "block"


def block_rows(chains: list[Chain], pair: Watched | None) -> tuple[str, ...]:
    """The blocks' inputs, besides the streams, whose first dimension is the rows."""
    names: list[str] = []
    if pair is None:
        return ()
    for chain in chains:
        one, two = chain.ran[0].inputs, pair.of(chain.path)[0].inputs
        names += [n for n in layout.rows_of(one, two) if n not in (*names, chain.hidden, chain.text_input)]
    return tuple(names)


def absent(module: torch.nn.Module, inputs: dict[str, Any]) -> list[str]:
    """Inputs that a module's signature names and a call gave no value for."""
    parameters = inspect.signature(module.forward).parameters.values()
    left_out = [p.name for p in parameters if p.default is None and p.name not in inputs]
    return [name for name, value in inputs.items() if value is None] + left_out


def never_given(transformer: torch.nn.Module, inputs: dict[str, Any], chains: list[Chain], words: list[str]) -> None:
    """Say which inputs had no value in these runs."""
    missing = absent(transformer, inputs)
    if missing:
        words.append(
            f"row_inputs: these runs gave no {', '.join(missing)}; add those whose first dimension is the rows"
        )
    of_blocks = sorted({n for chain in chains for n in absent(chain.ran[0].block, chain.ran[0].inputs)})
    if of_blocks:
        words.append(f"conditioning: the blocks were given no {', '.join(of_blocks)}; the same holds")


def has_layer_norms(chains: list[Chain]) -> bool:
    """Whether the blocks have LayerNorms."""
    return any(isinstance(m, torch.nn.LayerNorm) for chain in chains for m in chain.ran[0].block.modules())
