"""From a name to a DiT that can be looked into.

`load` takes the embedded model, a folder, a Hub id or a pipeline that is already there, finds the family record, and
checks on the spot that the transformer is what the record says: block lists, AdaLN widths, attention and MLP modules.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dg_tools.families import BlockList, Family, bind, family_of
from dg_tools.folders import DEFAULT, ZOO, card_call, check_folder, embedded, source_of  # noqa: F401
from dg_tools.profiles import check_profile, read_profile

logger = logging.getLogger("dg_tools")


def load(
    model: Any = None,
    *,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
    family: Family | None = None,
    **kwargs: Any,
) -> DiT:
    """A DiT by embedded name, folder, Hub id, or from a pipeline that is already loaded.

    Args:
        model: None (the embedded default), a name of `embedded()`, the path of a diffusers folder, a Hub id such as
            `stabilityai/stable-diffusion-3.5-medium` (this, and nothing else, may download), or a diffusers pipeline.
        dtype: a torch dtype; "auto" is float32 on a CPU and bfloat16 on an accelerator. Ignored for a loaded pipeline.
        device: where to put the pipeline; None leaves it (CPU, or where a loaded pipeline is).
        family: a record of your own for a transformer class that has none.
        **kwargs: passed to `DiffusionPipeline.from_pretrained` (`variant`, `revision`, `cache_dir` ...).

    Raises:
        FileNotFoundError: a path that is no diffusers folder, or an empty one; lists what there is.
        TypeError: something else, such as a modular pipeline, which takes a guider itself.
        ValueError: pickle weights, an unknown transformer class, a pipeline without a transformer, or a transformer
            that is not what its family record says.
    """
    from diffusers import DiffusionPipeline

    if isinstance(model, DiT):
        return model
    if isinstance(model, DiffusionPipeline):
        pipeline = model
        if device is not None:
            pipeline = pipeline.to(device)
        return DiT(pipeline, family)
    if type(model).__name__.endswith("ModularPipeline"):
        raise TypeError(
            f"a {type(model).__name__} takes a guider itself: pipe.update_components(guider=dg.DetailGuidance(...)); "
            "to look inside, load its components in a classic pipeline"
        )
    if not isinstance(model, str | Path | None):
        raise TypeError(
            f"a {type(model).__name__} is no model: pass a name, a folder, a Hub id or a diffusers pipeline"
        )
    name = DEFAULT if model is None else str(model)
    source = source_of(name)
    if isinstance(source, Path):
        check_folder(source)
        kwargs["local_files_only"] = True
    if dtype == "auto":
        on_cpu = torch.device(device or "cpu").type == "cpu"
        dtype = torch.float32 if on_cpu else torch.bfloat16
    try:
        with quiet_loading():
            pipeline = DiffusionPipeline.from_pretrained(str(source), dtype=dtype, use_safetensors=True, **kwargs)
    except OSError as error:
        raise FileNotFoundError(
            f"could not load {name!r} ({error}). A Hub id needs network access or a filled cache, "
            "and safetensors weights"
        ) from error
    pipeline.set_progress_bar_config(disable=True)  # dg_tools shows its own
    if device is not None:
        pipeline = pipeline.to(device)
    call = card_call(source) if isinstance(source, Path) else None
    return DiT(pipeline, family, call=call, profile=read_profile(source))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep the libraries' own loading bars, and their advice on torchvision, quiet; put back as they were."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [lib for lib in (diffusers_logging, transformers_logging) if lib.is_progress_bar_enabled()]
    source = logging.getLogger("transformers.utils.import_utils")
    quiet = lambda record: "requires torchvision" not in record.getMessage()  # noqa: E731
    source.addFilter(quiet)
    for lib in shown:
        lib.disable_progress_bar()
    try:
        yield
    finally:
        source.removeFilter(quiet)
        for lib in shown:
            lib.enable_progress_bar()


def check_not_compiled(transformer: torch.nn.Module) -> None:
    """Raise ValueError for a compiled transformer, or one with compiled blocks."""
    parts = [transformer, *transformer.modules()]
    if any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in parts):
        raise ValueError(
            "this transformer is compiled: torch traces a module's hooks when it compiles it and skips those that come "
            "later without a word, so that captures and edits would do nothing. Use dg_tools before compiling, or load "
            "the pipeline without torch.compile"
        )


class PipelineModule(torch.nn.Module):
    """A pipeline as a module, so that nnsight can trace a whole sampling run of a pipeline that exists already."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        for name, component in pipeline.components.items():
            if isinstance(component, torch.nn.Module):
                self.add_module(name, component)

    def forward(self, prompt: dict[str, Any], **kwargs: Any) -> Any:
        """`prompt` by the name of the pipeline's argument, which need not be the first; nnsight asks for a first."""
        return self.pipeline(**prompt, **kwargs)


class Block:
    """One block of a DiT, with views of what it computes for use inside `dit.trace(...)`.

    Attributes:
        index: position in execution order, over all block lists.
        name: site name, `3` or `single.7`.
        module: the torch module.
        record: the family's record of this block list.
    """

    def __init__(self, dit: DiT, index: int, name: str, record: BlockList, module: torch.nn.Module) -> None:
        self.dit, self.index, self.name, self.record, self.module = dit, index, name, record, module

    def __repr__(self) -> str:
        return f"Block({self.index}, site {self.name!r}, {type(self.module).__name__})"

    def _envoy(self, rank: int, what: str) -> Any:
        self.dit.guard(self.index, rank, what)
        envoy = getattr(self.dit.nnsight.transformer, self.record.path)
        return envoy[self.index - self.dit.first_index(self.record)]

    @property
    def conditioning(self) -> torch.Tensor:
        """What the block's AdaLN is given, (rows, channels): the time-text embedding. For reading, before the rest."""
        return bind(self.module, *self._envoy(0, "conditioning").inputs)[self.dit.family.embedding]

    @property
    def modulation(self) -> dict[str, torch.Tensor]:
        """AdaLN shift, scale and gate chunks by name, each (rows, channels). For reading."""
        envoy, record = self._envoy(0, "modulation"), self.record
        if record.adaln is not None:
            value = part_of(envoy, record.adaln).output
        else:
            value = bind(self.module, *envoy.inputs)[record.given]
        chunks = record.as_chunks(self.module, value, self.dit.width)
        if (added := record.added(self.module)) is not None:
            chunks = added + chunks
        names = record.chunks(self.module)
        return {name: chunks[:, i] for i, name in enumerate(names) if name is not None}

    @property
    def gates(self) -> dict[str, torch.Tensor]:
        """The AdaLN gates (the paper's alpha) by name, each (rows, channels). For reading."""
        return {name: value for name, value in self.modulation.items() if name.startswith("gate")}

    @property
    def attn(self) -> torch.Tensor:
        """What attention gives the image stream, before its gate: (rows, tokens, channels). For reading."""
        if self.record.attn is None:
            raise AttributeError(f"{self!r} writes attention and MLP in one projection: read .mlp")
        output = part_of(self._envoy(1, "attn"), self.record.attn).output
        return self._of_image(output[0] if isinstance(output, tuple) else output)

    @property
    def mlp(self) -> torch.Tensor:
        """What the MLP gives the image stream, before its gate: (rows, tokens, channels). For reading."""
        if self.record.mlp is None:
            raise AttributeError(f"{self!r} runs its MLP more than once, and a trace cannot tell which run is which")
        return self._of_image(part_of(self._envoy(2, "mlp"), self.record.mlp).output)

    def _of_image(self, output: torch.Tensor) -> torch.Tensor:
        """The image tokens of what a branch gives; a convolution's output (rows, channels, y, x) as tokens."""
        if output.ndim == 4:
            return output.flatten(2).transpose(1, 2)
        return output[:, -self.dit.image_tokens_now() :] if self.record.mlp_is_concatenated else output

    @property
    def output(self) -> Any:
        """What the block returns, as it returns it (the record says where the streams are). Read or assign whole."""
        return self._envoy(3, "output").output

    @output.setter
    def output(self, value: Any) -> None:
        self._envoy(3, "output").output = value

    @property
    def image(self) -> torch.Tensor:
        """Hidden states of the image stream at the block's output: (rows, tokens, channels). Read, edit or assign."""
        return self._envoy(3, "image").image

    @image.setter
    def image(self, value: torch.Tensor) -> None:
        self._envoy(3, "image").image = value

    @property
    def text(self) -> torch.Tensor | None:
        """Hidden states of the text stream at the block's output; None where there are none (SD3's last block, and
        families that only attend to the text).
        """
        return self._envoy(3, "text").text

    @text.setter
    def text(self, value: torch.Tensor) -> None:
        self._envoy(3, "text").text = value


def part_of(module: Any, path: str) -> Any:
    """A part of a module, or of its nnsight envoy, by a path such as `norm1.linear` or `img_mod.1`."""
    for name in path.split("."):
        module = module[int(name)] if name.isdigit() else getattr(module, name)
    return module


class DiT:
    """A diffusers pipeline whose transformer's family is known.

    Attributes:
        pipeline: the diffusers pipeline, untouched.
        transformer: its transformer.
        family: the family record.
        blocks: every block in execution order; `block=` arguments index into this.
        width: channels of the residual stream.
        call: arguments that the model card asks to pass in every pipeline call.
        lock: held by every run; a second thread waits.
    """

    def __init__(
        self,
        pipeline: Any,
        family: Family | None = None,
        call: dict[str, Any] | None = None,
        profile: dict[str, Any] | None = None,
    ) -> None:
        transformer = getattr(pipeline, "transformer", None)
        if transformer is None:
            parts = ", ".join(sorted(pipeline.components))
            raise ValueError(
                f"{type(pipeline).__name__} has no transformer (it has: {parts}); dg_tools works on diffusion "
                "transformers, not on U-Nets"
            )
        check_not_compiled(transformer)
        self.pipeline, self.transformer = pipeline, transformer
        self.family = family or family_of(transformer, pipeline)
        self.call, self.profile = call or {}, profile
        self.lock = threading.RLock()
        if getattr(pipeline, "transformer_2", None) is not None:
            raise ValueError(
                f"this {type(pipeline).__name__} hands over to a second transformer within a run; dg_tools looks into "
                "one only"
            )
        for part, facts in ((transformer, self.family.config), (pipeline, self.family.pipeline_config)):
            for name, value in facts:
                if (is_ := getattr(part.config, name, value)) != value:
                    raise ValueError(
                        f"family {self.family.name!r} is about {name}={value!r}; this {type(part).__name__} has {is_!r}"
                    )
        check_record(self.family, transformer)
        self.blocks = [
            Block(self, i, name, record, module)
            for i, (name, record, module) in enumerate(self.family.blocks(transformer))
        ]
        self.width = self.family.width(transformer)
        if profile is not None:
            check_profile(profile, self.sites, self.width)
        self._run: Any = None

    def __repr__(self) -> str:
        lists = " + ".join(f"{len(getattr(self.transformer, r.path))} {r.label or 'blocks'}" for r in self.family.lists)
        return f"DiT({type(self.pipeline).__name__}, family {self.family.name!r}, {lists}, width {self.width})"

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs (with offloading: where it computes)."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    @property
    def sites(self) -> list[str]:
        """Site names in execution order."""
        return [b.name for b in self.blocks]

    def first_index(self, record: BlockList) -> int:
        """Index of the first block of a list."""
        return next(b.index for b in self.blocks if b.record is record)

    def block(self, block: int) -> Block:
        """A block by index.

        Raises:
            IndexError: out of range, with the range and the site names.
        """
        if not isinstance(block, int) or not 0 <= block < len(self.blocks):
            names = f"{self.sites[0]!r} to {self.sites[-1]!r}"
            raise IndexError(f"block {block!r} asked for; there are 0 to {len(self.blocks) - 1} (sites {names})")
        return self.blocks[block]

    # -- sizes ------------------------------------------------------------------------------------------------------

    @property
    def pixels_per_token(self) -> int:
        """Pixels along one side of an image token."""
        return self.vae_scale_factor * self.family.patch(self.transformer)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along one side of a latent pixel."""
        for name in ("vae_scale_factor", "vae_scale_factor_spatial"):
            if hasattr(self.pipeline, name):
                return getattr(self.pipeline, name)
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    @property
    def takes(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the pipeline's call, by name."""
        return inspect.signature(self.pipeline.__call__).parameters

    def default_side(self, which: str) -> int:
        """The default height or width in pixels: the model card's, else the pipeline's."""
        stated = self.call.get(which) or (self.takes[which].default if which in self.takes else None)
        if stated:
            return stated
        size: int = getattr(self.pipeline, "default_sample_size", 0) or self.transformer.config.sample_size
        return size * self.vae_scale_factor

    def size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width in pixels, the model card's or the pipeline's default where None.

        Raises:
            ValueError: no multiple of the token size, more tokens than the position table holds, or another size than
                the only one that the pipeline makes.
        """
        defaults = self.default_side("height"), self.default_side("width")
        height, width = height or defaults[0], width or defaults[1]
        if "height" not in self.takes and (height, width) != defaults:
            raise ValueError(
                f"size {height} x {width} asked for; {type(self.pipeline).__name__} makes {defaults[0]} x "
                f"{defaults[1]} only: leave height and width out"
            )
        step = self.pixels_per_token
        if height % step or width % step or height < step or width < step:
            raise ValueError(
                f"size {height} x {width} asked for; both sides must be multiples of {step} pixels (one image token), "
                f"such as {max(step, height // step * step)} x {max(step, width // step * step)}"
            )
        most = self.family.most_tokens(self.transformer)
        if most and max(height, width) > most * step:
            raise ValueError(f"size {height} x {width} asked for; this transformer's positions end at {most * step}")
        return height, width

    def grid(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Image tokens as (rows, columns); token y * columns + x is the patch at (y, x)."""
        height, width = self.size(height, width)
        return height // self.pixels_per_token, width // self.pixels_per_token

    def tokens(
        self,
        boxes: Sequence[tuple[float, float, float, float]] = (),
        mask: torch.Tensor | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> list[int]:
        """Image tokens of a region, for `Disrupt(tokens=...)`: those that lie at least half inside it.

        Args:
            boxes: (left, top, right, bottom) in pixels of the picture; several are joined.
            mask: (height, width), larger than 0.5 inside; joined with the boxes.
            height, width: of the picture; the pipeline's default where None.

        Raises:
            ValueError: a box outside the picture, a mask of another size, or a region that holds no token.
        """
        height, width = self.size(height, width)
        inside = torch.zeros(height, width)
        for left, top, right, bottom in boxes:
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise ValueError(
                    f"box ({left}, {top}, {right}, {bottom}) asked for; (left, top, right, bottom) must lie within "
                    f"(0, 0, {width}, {height})"
                )
            inside[round(top) : round(bottom), round(left) : round(right)] = 1
        if mask is not None:
            if tuple(mask.shape) != (height, width):
                raise ValueError(f"the mask is {tuple(mask.shape)}; the picture is ({height}, {width})")
            inside[mask > 0.5] = 1
        side = self.pixels_per_token
        share = torch.nn.functional.avg_pool2d(inside[None, None], side).flatten()
        found = (share >= 0.5).nonzero().flatten().tolist()
        if not found:
            raise ValueError(f"this region holds no image token: tokens are {side} x {side} pixels")
        return found

    @property
    def default_steps(self) -> int:
        """Denoising steps of the pipeline's own call."""
        return self.takes["num_inference_steps"].default

    # -- one pipeline call ------------------------------------------------------------------------------------------

    def arguments(
        self,
        prompt: str | int | list[str] | list[int],
        *,
        seed: int | list[int] | torch.Generator = 0,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of one call of the pipeline; `guidance_scale` is the usual CFG scale s (1 = off).

        A `prompt` of a class-conditional pipeline is a class number, or a name that the pipeline knows it by.

        Raises:
            ValueError: a size, a count of steps, a prompt or a negative prompt that the pipeline cannot take.
        """
        height, width = self.size(height, width)
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps} asked for; at least 1 is needed")
        single = isinstance(prompt, str | int)
        count = 1 if single else len(prompt)  # type: ignore[arg-type]
        if count == 0:
            raise ValueError("no prompt: pass a string or a list with at least one")
        if isinstance(seed, torch.Generator):
            generator: Any = seed
        else:
            seeds = [seed] * count if isinstance(seed, int) else list(seed)
            if len(seeds) != count:
                raise ValueError(f"{len(seeds)} seeds for {count} prompts: pass one seed, or one for each prompt")
            generator = [torch.Generator("cpu").manual_seed(s) for s in seeds]
            generator = generator[0] if single else generator
        asked = {self.family.prompt: self.prompts(prompt), "generator": generator}
        made = {**self.family.call, **self.call, **asked}
        if "height" in self.takes:
            made |= {"height": height, "width": width}
        if steps is not None:
            made["num_inference_steps"] = steps
        made[self.family.guidance_argument] = guidance_scale
        if negative_prompt and not self.family.negative_prompt:
            raise ValueError(f"{type(self.pipeline).__name__} takes no negative_prompt: leave it out")
        if guidance_scale > 1 and self.family.negative_prompt:
            made["negative_prompt"] = (negative_prompt or "") if single else [negative_prompt or ""] * count
        self.check_call(kwargs)
        return {**made, **kwargs}

    def prompts(self, prompt: Any) -> Any:
        """Prompts as the pipeline takes them: words, or a list of class numbers.

        Raises:
            ValueError: no class of that number, or none of that name.
        """
        if self.family.prompt == "prompt":
            return prompt
        made = []
        for one in prompt if isinstance(prompt, list | tuple | range) else [prompt]:
            labels, count = getattr(self.pipeline, "labels", {}), self.transformer.config.num_embeds_ada_norm
            number = labels.get(one) if isinstance(one, str) else one
            if number is None or not 0 <= number < count:
                known = (
                    f"and {len(labels)} names, such as {next(iter(labels))!r}" if labels else "and it knows no names"
                )
                raise ValueError(f"class {one!r} asked for; there are 0 to {count - 1}, {known}")
            made.append(int(number))
        return made

    def check_call(self, kwargs: dict[str, Any]) -> None:
        """Raise ValueError for an argument that this toolkit needs to be otherwise."""
        for name, value in self.family.call.items():
            if kwargs.get(name, value) != value:
                raise ValueError(f"{name}={kwargs[name]!r} asked for; with family {self.family.name!r} it is {value!r}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """One run at a time: a second thread waits here.

        Where the model card sets the T5 length, the pipeline's warning about text cut at that length is kept quiet: the
        model was trained that way.
        """
        source = logging.getLogger(type(self.pipeline).__module__)
        quiet = (lambda record: "truncated" not in record.getMessage()) if self.call else (lambda record: True)
        with self.lock:
            source.addFilter(quiet)
            try:
                yield
            finally:
                source.removeFilter(quiet)

    # -- nnsight ----------------------------------------------------------------------------------------------------

    @cached_property
    def nnsight(self) -> Any:
        """The pipeline as an nnsight model; wrapped on first use, undone by `unwrap()`."""
        from dg_tools.tracing import wrap

        return wrap(self)

    def unwrap(self) -> None:
        """Take nnsight's instrumentation off every module again."""
        if "nnsight" in self.__dict__:
            from dg_tools.tracing import unwrap

            unwrap(self.nnsight)
            del self.__dict__["nnsight"]

    def trace(self, prompt: str | list[str], **kwargs: Any) -> Any:
        """An nnsight trace of one sampling run.

            with dit.trace("red apple", seed=0, steps=20) as run:
                for step in run.steps:
                    dit.blocks[5].image[..., channels] = 0

        Takes what `arguments` takes. `run.steps` yields one `Step` (an int) for each call of the transformer, numbered
        by the timestep that it was given. Reads must follow execution order (block by block; modulation, attn, mlp,
        then image and text); another order is an error, not a silent read of the next step. Tensors to keep: clone them
        into a container made before the block (a view that is kept shows an edit made in place through it). After the
        loop `run.result` is what the pipeline returned.
        """
        from dg_tools.tracing import RunTracer

        arguments = self.arguments(prompt, **kwargs)
        guided = arguments[self.family.guidance_argument] > 1
        named = {self.family.prompt: arguments.pop(self.family.prompt)}
        return self.nnsight.trace(named, tracer_cls=lambda *a, **k: RunTracer(self, guided, *a, **k), **arguments)

    def guard(self, index: int, rank: int, what: str) -> None:
        """Called by every block view: only inside a trace, and only in execution order."""
        if self._run is None:
            raise RuntimeError(f"block {index}'s .{what} was read outside of `with dit.trace(...)`")
        self._run.guard(index, rank, what)

    def image_tokens_now(self) -> int:
        """Image tokens of the run being traced."""
        return self._run.image_tokens


def check_record(family: Family, transformer: torch.nn.Module) -> None:
    """Raise ValueError where a transformer is not what its record says."""

    def wrong(message: str) -> ValueError:
        return ValueError(f"{type(transformer).__name__} does not match family record {family.name!r}: {message}")

    width = family.width(transformer)
    for record in family.lists:
        if not hasattr(transformer, record.path):
            raise wrong(f"there is no block list {record.path!r}")
    for name, record, block in family.blocks(transformer):
        for path in filter(None, (record.adaln, record.attn, record.mlp)):
            try:
                part = part_of(block, path)
            except (AttributeError, IndexError):
                part = None
            if part is None:
                raise wrong(f"block {name} has no {path!r}")
        chunks = record.chunks(block)
        if record.adaln is not None:
            size = part_of(block, record.adaln).out_features
            if size != width * len(chunks):
                raise wrong(f"block {name}: {size} AdaLN outputs are no {len(chunks)} chunks of {width}")
        elif record.given not in inspect.signature(type(block).forward).parameters:
            raise wrong(f"block {name} takes no {record.given!r}")
        if (added := record.added(block)) is not None and tuple(added.shape[-2:]) != (len(chunks), width):
            raise wrong(
                f"block {name}: its {record.table} is {tuple(added.shape)}, not {len(chunks)} chunks of {width}"
            )
