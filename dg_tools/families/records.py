"""What a record says of a whole model and its pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dg_tools.families.block_list import SIX, BlockList
from dg_tools.families.inputs import Inputs
from dg_tools.families.latents import PLAIN, Latents

if TYPE_CHECKING:  # a record is read without torch
    import torch

__all__ = ["SIX", "BlockList", "Defaults", "Family", "Rows"]

CONTEXTS: dict[str, Literal["cond", "uncond"]] = {"cond": "cond", "uncond": "uncond"}
CONTEXTS |= {"pred_cond": "cond", "pred_uncond": "uncond"}
Rows = Literal["batched", "batched_cond_first", "sequential"]


@dataclass(frozen=True)
class Defaults:
    """The defaults of a pipeline's call, for estimates that are printed before anything is loaded.

    Attributes:
        steps: denoising steps.
        latent_side: latent pixels along a side; None: the transformer's `sample_size`.
        pixels: height and width, where the call states them itself.
        text: text tokens: a fixed number, and the most of a prompt (`max_sequence_length`).
        padded: the first tokenizer's full length comes before these (SD3's CLIP).
    """

    steps: int = 28
    latent_side: int | None = None
    pixels: tuple[int, int] | None = None
    text: tuple[int, int] = (0, 512)
    padded: bool = False


@dataclass(frozen=True)
class Family:
    """What the toolkit must know of a DiT family.

    Attributes:
        name: short name, `sd3`.
        transformer: class name of the transformer in diffusers.
        lists: block lists in execution order.
        rows: how classifier-free guidance is laid out: `batched` (one call, rows [uncond, cond]), `batched_cond_first`
            (rows [cond, uncond]) or `sequential` (two calls per step, the conditional one first).
        contexts: names that pipelines of a `sequential` family give their passes (diffusers' `cache_context`), and what
            these are; a pipeline that gives none is read by the order of its calls.
        timestep_scale: the transformer's `timestep` input is sigma times this (in a diffusion: the training step
            over 1000, times this), plus `timestep_offset`.
        scale_per_token: the pipeline's `vae_scale_factor` counts pixels along a side of a token, not of a latent pixel.
        packing: latent pixels per token along a side; None: the transformer's `patch_size`.
        partial_forward: whether a forward may start from a stored block output.
        guidance_argument: the pipeline's argument for the usual CFG scale.
        guiders: components of the pipeline that hold that scale instead and add up the predictions; one of them guides
            a run.
        scale_offset: the usual scale less that argument.
        live_scale: the pipeline's attribute from which its loop reads that scale at each step, so that a callback may
            change it; empty where the loop uses the argument.
        row_inputs: names of the transformer's inputs whose first dimension is the rows.
        row_lists: those of them that are lists with an item for each row.
        ragged: rows may have texts of different lengths, so a rerun from a stored output computes all rows of its call.
        inputs: how the transformer is called, where it is not given `hidden_states` and `timestep`.
        conditioning: names of the blocks' inputs, besides the two streams, whose first dimension is the rows.
        embedding: the blocks' input that holds the embedding of time (and text), (rows, channels), the same for all
            of them; empty where there is no such input.
        tail: path of the module after the last block; it takes the image stream and the conditioning.
        positions_are_flat: the transformer's `pos_embed_max_size` counts tokens, not tokens along a side.
        tail_conditioning: paths of further modules there whose inputs have rows.
        fork: whether rows may be added inside a forward; not where its end relies on the rows of its beginning.
        prediction: what the transformer predicts: a `velocity` (flow matching), `minus velocity`, or in a diffusion
            `noise` or `v`.
            Experiments at a z_t of your own, z = (1 - sigma) x + sigma noise, are for velocities only.
        prompt: the pipeline's argument for what to draw; `class_labels` takes class numbers, or the names that the
            pipeline knows them by.
        negative_prompt: whether the pipeline takes a negative prompt.
        call: arguments that the toolkit passes in every pipeline call.
        free_call: those of them that the user may override; the value in `call` is then the default.
        own_call: those of them that a guidance requires in the user's own calls too.
        pipelines: class names of the pipelines that the record is about; empty: any.
        config, pipeline_config: (name, value) of the transformer's and of the pipeline's configuration that the record
            is about; another is refused.
        latents: how latents are packed into tokens, and brought to the VAE's scale.
        rescaling: what the pipeline does to the guided prediction afterwards, as a sentence; empty: nothing. It must
            depend on the conditional prediction that the transformer returned and on the guided one only.
        rescaling_switch: the pipeline's argument that switches this on and off; empty: it is always on.
        defaults: of the pipeline's call.
        image_first: whether the image tokens come before the text in a joint attention; None: not known.
        tokenizers: the pipeline's tokenizers whose tokens make up the text stream, one after the other, each padded to
            its own length and the last one to what is left; empty: not known.
        positions: the transformer's input with a picture, a row and a column for each image token, as columns 0 to 2,
            where latents come as tokens; those of the text may come before them. The picture's own tokens come first,
            and reference pictures have other numbers in column 0.
        shapes: instead: the input that lists (frames, rows, columns) of each picture of a row, the own one first.
        sizes: instead: the inputs that say how many frames, rows and columns of tokens there are.
        layout: the axes of latents with a dimension of frames: n (rows), c (channels), f (frames), h, w.
        patched: latents reach the transformer as patches of `packing` x `packing` pixels, of (N, C, H, W) still.
        fit: the size that the pipeline rounds a given height and width to; a size that it would change is refused.
        patch_projection: path of the module that projects patches, where a table of positions is added to its output.
        width_config: the transformer's configuration that is the width of the stream; empty: heads times their width.
        layer_norms: whether the blocks' norms are LayerNorms, whose statistics `Disrupt(norms="clean")` can keep.
        class_count: the transformer's configuration that says how many classes there are.
        input_sizes: the transformer's configuration that its inputs depend on.
    """

    name: str
    transformer: str
    lists: tuple[BlockList, ...]
    rows: Rows
    timestep_scale: float
    packing: int | None
    partial_forward: bool
    guidance_argument: str
    row_inputs: tuple[str, ...]
    row_lists: tuple[str, ...] = ()
    ragged: bool = False
    inputs: Inputs | None = None
    guiders: tuple[str, ...] = ()
    scale_offset: float = 0.0
    timestep_offset: float = 0.0
    scale_per_token: bool = False
    live_scale: str = ""
    conditioning: tuple[str, ...] = ("temb",)
    embedding: str = "temb"
    tail: str = "norm_out"
    positions_are_flat: bool = False
    tail_conditioning: tuple[str, ...] = ()
    fork: bool = True
    prediction: Literal["velocity", "minus velocity", "noise", "v"] = "velocity"
    prompt: str = "prompt"
    negative_prompt: bool = True
    call: dict[str, Any] = field(default_factory=dict)
    free_call: tuple[str, ...] = ()
    own_call: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    config: tuple[tuple[str, Any], ...] = ()
    pipeline_config: tuple[tuple[str, Any], ...] = ()
    latents: Latents = PLAIN
    rescaling: str = ""
    rescaling_switch: str = ""
    contexts: Mapping[str, Literal["cond", "uncond"]] = field(default_factory=lambda: dict(CONTEXTS))
    defaults: Defaults = Defaults()
    image_first: bool | None = None
    tokenizers: tuple[str, ...] = ()
    positions: str = ""
    shapes: str = ""
    sizes: tuple[str, ...] = ()
    layout: str = "ncfhw"
    patched: bool = False
    fit: Callable[[Any, int, int], tuple[int, int]] | None = field(default=None, repr=False)  # else as an address
    patch_projection: str = ""
    width_config: str = ""
    layer_norms: bool = True
    class_count: str = ""
    input_sizes: tuple[str, ...] = (
        *("in_channels", "out_channels", "patch_size"),
        *("joint_attention_dim", "pooled_projection_dim"),
    )

    @property
    def diffusion(self) -> bool:
        """Whether the model is a diffusion, z = sqrt(1 - sigma^2) x + sigma noise, and not a flow."""
        return self.prediction in ("noise", "v")

    def blocks(self, transformer: torch.nn.Module) -> Iterator[tuple[str, BlockList, torch.nn.Module]]:
        """(site name, record, module) of every block, in execution order."""
        for record in self.lists:
            for i, block in enumerate(getattr(transformer, record.path)):
                yield (f"{record.label}.{i}" if record.label else str(i)), record, block

    def check(
        self, config: Mapping[str, Any], transformer: str, pipeline_config: Mapping[str, Any], pipeline: str
    ) -> None:
        """Raise ValueError for a configuration outside of the record's scope.

        Args:
            config, pipeline_config: of the transformer and of the pipeline.
            transformer, pipeline: what the message calls them.
        """
        parts = ((config, self.config, transformer), (pipeline_config, self.pipeline_config, pipeline))
        for part, facts, name in parts:
            for key, value in facts:
                actual = part.get(key, value)
                if (tuple(actual) if isinstance(actual, list) else actual) != value:  # JSON has lists
                    raise ValueError(f"family {self.name!r} is written for {key}={value!r}; this {name} has {actual!r}")

    def width(self, transformer: Any) -> int:
        """Channels of the residual stream."""
        config = transformer.config
        if self.width_config:
            return getattr(config, self.width_config)
        return config.num_attention_heads * config.attention_head_dim

    def patch(self, transformer: Any) -> int:
        """Latent pixels per token along a side."""
        if self.packing:
            return self.packing
        size = transformer.config.patch_size
        return size if isinstance(size, int) else size[-1]

    def most_tokens(self, transformer: Any) -> int | None:
        """The most image tokens along a side that the position table holds; None where there is no limit."""
        most = getattr(transformer.config, "pos_embed_max_size", None)
        return int(most**0.5) if most and self.positions_are_flat else most

    def image_tokens(self, transformer: Any, hidden_states: torch.Tensor) -> int:
        """Image tokens in the transformer's own input: a latent picture, or tokens already packed."""
        if hidden_states.ndim == 3:
            return hidden_states.shape[1]
        frames, rows, columns = self.counts(transformer, hidden_states)
        return frames * rows * columns

    def frames(self, transformer: Any, inputs: Mapping[str, Any]) -> int:
        """Frames of image tokens in the transformer's own inputs: 1 where these are pictures."""
        if self.sizes:
            return inputs[self.sizes[0]]
        hidden = inputs["hidden_states"]
        return 1 if hidden.ndim == 3 else self.counts(transformer, hidden)[0]

    def counts(self, transformer: Any, latents: torch.Tensor) -> tuple[int, int, int]:
        """Frames, rows and columns of the image tokens of latents that are not packed."""
        axes = self.layout if latents.ndim == 5 else "nchw"
        frames, rows, columns = (latents.shape[axes.index(axis)] if axis in axes else 1 for axis in "fhw")
        size = getattr(transformer.config, "patch_size", 1)
        long = size[0] if isinstance(size, list | tuple) and len(size) == 3 else 1
        patched = self.patched and latents.shape[1] == transformer.config.in_channels
        patch = 1 if patched else self.patch(transformer)
        return frames // long, rows // patch, columns // patch

    def grid(self, transformer: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """Image tokens as (rows, columns), from the transformer's own inputs.

        Raises:
            ValueError: more image tokens than those of one picture.
        """
        hidden = inputs["hidden_states"]
        if hidden.ndim != 3:
            return self.counts(transformer, hidden)[1:]
        if self.sizes:
            return inputs[self.sizes[1]], inputs[self.sizes[2]]
        ids = inputs[self.positions]
        rows, columns = extent(ids.reshape(-1, ids.shape[-1])[-hidden.shape[1] :])
        if rows * columns != hidden.shape[1]:
            raise ValueError(
                f"{hidden.shape[1]} image tokens are not a {rows} x {columns} picture: only plain "
                "text-to-image calls are supported"
            )
        return rows, columns

    def picture_grid(self, transformer: Any, inputs: Mapping[str, Any]) -> tuple[int, int] | None:
        """Rows and columns of the picture's own tokens, reference pictures left out; None where they do not tell."""
        hidden = inputs["hidden_states"]
        if hidden.ndim != 3 or self.sizes:
            return self.grid(transformer, inputs)
        if inputs.get(self.shapes):
            first = inputs[self.shapes][0]
            return tuple((first if isinstance(first[0], int) else first[0])[1:])
        if inputs.get(self.positions) is None:
            return None
        ids = inputs[self.positions]
        ids = (ids[0] if ids.ndim == 3 else ids)[-hidden.shape[1] :]  # FLUX.2 gives them for every row
        ids = ids[ids[:, 0] == ids[0, 0]]  # FLUX.1 Kontext and FLUX.2 number their reference pictures there
        rows, columns = extent(ids)
        return (rows, columns) if rows * columns == len(ids) else None

    def image_rows(self, tokens: int, image_tokens: int) -> slice:
        """Which of the `tokens` of a joint attention are the image's."""
        return slice(0, image_tokens) if self.image_first else slice(tokens - image_tokens, tokens)


def extent(ids: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of the tokens with these positions (tokens, 3 or more), wherever the first of them lies."""
    rows, columns = (int(ids[:, i].max() - ids[:, i].min()) + 1 for i in (1, 2))
    return rows, columns
