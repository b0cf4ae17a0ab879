"""Every family beyond the first five pipelines, against the stock pipeline, plain hooks and a loop by hand; and the
records of SD3 and FLUX.1 against full-size configurations, on the meta device."""

from __future__ import annotations

import copy
import inspect

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers import Flux2KleinKVPipeline, FluxTransformer2DModel, SD3Transformer2DModel, modular_pipelines

import dg_tools as dg
from dg_tools.experiments.output_matching import match_output, output_change
from dg_tools.families import FAMILIES, family_of
from dg_tools.forward.call import Call
from dg_tools.forward.stepping import after_each_step
from dg_tools.generation.sampling import run
from dg_tools.interventions import attached
from dg_tools.models.check import check_record
from dg_tools.models.pictures import spatial
from dg_tools.onestep import conditions, velocity

SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
}
CONFIGS = {  # class, configuration, blocks, width, first and last site
    "SD3-medium": (
        SD3Transformer2DModel,
        {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
        (24, 1536, "0", "23"),
    ),
    "SD3.5-medium": (
        SD3Transformer2DModel,
        {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
         "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
        (24, 1536, "0", "23"),
    ),
    "SD3.5-large": (
        SD3Transformer2DModel,
        {**SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192,
         "qk_norm": "rms_norm"},
        (38, 2432, "0", "37"),
    ),
    "FLUX.1-dev": (
        FluxTransformer2DModel,
        {"patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
         "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True},
        (57, 3072, "double.0", "single.37"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONFIGS))
def test_full_size_configurations(name):
    kind, config, (count, width, first, last) = CONFIGS[name]
    with torch.device("meta"):
        transformer = kind(**config)
    family = family_of(transformer)
    check_record(family, transformer)
    blocks = list(family.blocks(transformer))
    assert (len(blocks), blocks[0][0], blocks[-1][0]) == (count, first, last)
    for site, record, block in blocks:
        chunks = record.chunks(block)
        assert block.get_submodule(record.adaln).out_features == len(chunks) * width, site
        assert {record.mlp_gate} <= set(chunks) and (record.attn is None or record.attn_gate in chunks)


STATED = {"hidream": {"patch_size": 2, "in_channels": 16, "caption_channels": [4096, 4096]}}  # no defaults of the class


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name not in ("sd3", "flux")], ids=lambda f: f.name)
def test_published_widths(family):
    """The classes' own defaults are the published sizes; one block of each list is enough here."""
    kind = getattr(diffusers, family.transformer)
    names = inspect.signature(kind.__init__).parameters
    counts = [p for p in names if p.startswith(("num", "n_")) and p.endswith(("layers", "blocks"))]
    with torch.device("meta"):
        transformer = kind(**dict.fromkeys(counts, 1), **STATED.get(family.name, {}))
    check_record(family, transformer)
    assert family.width(transformer) > 1000 and len(list(family.blocks(transformer))) == len(family.lists)


def test_dual_attention_is_told_apart():
    dit = dg.load(tiny.PIPELINES["sd35-medium"]())
    chunks = [len(b.record.chunks(b.module)) for b in dit.blocks]
    assert chunks == [9, 9, 6, 6]


def test_records_are_distinct_and_frozen():
    assert len({f.name for f in FAMILIES}) == len(FAMILIES)
    classes = [f.transformer for f in FAMILIES]
    for family in FAMILIES:  # those that share a class are about different pipelines
        same = [f for f in FAMILIES if f.transformer == family.transformer]
        named = [name for f in same for name in f.pipelines]
        assert classes.count(family.transformer) == 1 or (
            all(f.pipelines for f in same) and len(set(named)) == len(named)
        )
    with pytest.raises(AttributeError):
        FAMILIES[0].name = "other"


def test_a_record_of_ones_own():
    """A class without a record works as soon as its record is passed."""
    from dataclasses import replace

    pipeline = tiny.sd3()
    other = type("MyTransformer2DModel", (type(pipeline.transformer),), {})
    pipeline.transformer.__class__ = other
    with pytest.raises(ValueError, match="pass family="):
        dg.load(pipeline)
    mine = replace(FAMILIES[0], name="mine", transformer="MyTransformer2DModel")
    made = dg.generate(dg.load(pipeline, family=mine), "apple", edits=dg.Disrupt([3], 1), progress=False, **tiny.CALL)
    assert len(made.images) == 1


# -- the families beyond SD3 and FLUX.1 -------------------------------------------------------------------------------

TINY = tiny.families()
OFF = [3, 7]
TINY_CHANNELS = 4  # of most tiny VAEs
CALL = Call(0, 999.0, 1.0, "cond", slice(None), slice(0, 0))


class Subject:
    """A tiny pipeline of one family, and its stock call."""

    def __init__(self, name: str) -> None:
        self.about = TINY[name]
        self.dit = dg.load(self.about.pipeline())
        self.call = {**self.about.SIZE, **self.about.CALL}

    @property
    def argument(self) -> str | None:
        """The pipeline's name of the CFG scale; None where it has no CFG."""
        return getattr(self.about, "SCALE", "guidance_scale")

    def most(self, s: float) -> float:
        """This scale, or 1 where the pipeline has no CFG."""
        return s if self.argument or hasattr(self.about, "set_scale") else 1.0

    def set_scale(self, s: float) -> None:
        """Of pipelines that have it in a component."""
        getattr(self.about, "set_scale", lambda pipe, s: None)(self.dit.pipeline, s)

    def arguments(self, s: float, prompt=None) -> dict:
        """Of the pipeline's own call, written out here once more."""
        words = prompt if prompt is not None else self.about.PROMPTS[0]
        call = {k: v for k, v in self.call.items() if k != "steps"}
        made = {**call, **self.about.STOCK, "num_inference_steps": self.call["steps"], "generator": seeded(5)}
        if self.argument:
            made[self.argument] = s - getattr(self.about, "OFFSET", 0)
        if self.dit.family.prompt == "class_labels":
            return {**made, "class_labels": [words]}
        if s > 1 and getattr(self.about, "NEGATIVE", True):
            made["negative_prompt"] = ""
        return {**made, "prompt": words}

    def stock(self, s: float, **kwargs):
        """(latents that the scheduler left, pictures) of the pipeline's own call."""
        self.set_scale(s)
        scheduler, left = self.dit.pipeline.scheduler, []
        step = scheduler.step

        def keep(*args, **kwargs):
            left.append(step(*args, **kwargs))
            return left[-1]

        keep.__signature__ = inspect.signature(step)
        scheduler.step = keep
        try:
            pictures = self.dit.pipeline(**self.arguments(s), output_type="np", **kwargs)[0]
        finally:
            del scheduler.step
        return left[-1][0][:1], pictures

    def calls(self, s: float) -> list[dict]:
        """The transformer's inputs in the stock call's first step, one dict a prediction: [cond] or [cond, uncond]."""
        found = []

        def keep(module, args, kwargs):
            bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
            found.append({k: v for k, v in bound.items() if k not in ("self", "return_dict")})

        handle = self.dit.transformer.register_forward_pre_hook(keep, with_kwargs=True)
        self.set_scale(s)
        self.dit.pipeline(**self.arguments(s), output_type="latent")
        handle.remove()
        if s == 1:
            return found[:1]
        if self.about.HALVES is None:
            return found[:2]

        def half(i):
            if hasattr(self.about, "half"):
                return self.about.half(found[0], i)

            def split(value):
                rows = len(value) if isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim) else 0
                return value[i : i + 1] if rows == 2 else value

            return {k: split(v) for k, v in found[0].items()}

        return [half(1), half(0)] if self.about.HALVES == "uncond, cond" else [half(0), half(1)]

    def by_hand(self, s: float, w: float, block: int) -> torch.Tensor:
        """Detail Guidance written out: separate calls of the transformer, a plain hook, the scheduler's own step."""
        calls, dit = self.calls(s), self.dit
        scheduler = copy.deepcopy(dit.pipeline.scheduler)
        rewound(scheduler)
        about, module = self.about, dit.blocks[block].module
        latents = about.state(calls[0]) if hasattr(about, "state") else calls[0]["hidden_states"]
        latents, references = latents.split([latents.shape[1] - self.references, self.references], dim=1)
        for t in scheduler.timesteps:
            level = t.reshape(1) / (1000.0 / dit.family.timestep_scale)  # to the last bit as the pipelines
            if "timestep" in calls[0]:
                level = level.to(calls[0]["timestep"].dtype).expand(calls[0]["timestep"].shape)

            def predict(inputs, level=level, latents=latents):
                changed = {"hidden_states": torch.cat([latents, references], dim=1), "timestep": level}
                own = about.given(inputs, latents, level) if hasattr(about, "given") else {**inputs, **changed}
                with torch.no_grad():
                    made = dit.transformer(**own, return_dict=False)[0]
                return about.prediction(made) if hasattr(about, "prediction") else made[:, : latents.shape[1]]

            c = predict(calls[0])
            u = predict(calls[1]) if s > 1 else c
            handle = module.register_forward_hook(lambda m, i, o: self.about.zero(o, OFF, self.tokens))
            d = predict(calls[0])
            handle.remove()
            made = c + (s - 1) * (c - u) + w * (c - d)
            if s > 1 and hasattr(self.about, "afterwards"):
                made = self.about.afterwards(made, c)
            latents = scheduler.step(made, t, latents, return_dict=False)[0]
        return latents

    @property
    def tokens(self) -> int:
        return int(np.prod(self.dit.grid(self.call.get("height"), self.call.get("width"))))

    @property
    def references(self) -> int:
        """Tokens of the pictures to edit, after the picture's own."""
        return getattr(self.about, "REFERENCES", 0)

    @property
    def channels(self) -> int:
        """Of the VAE's latents."""
        return getattr(self.about, "CHANNELS", TINY_CHANNELS)

    def rows_first(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, channels) of what a block takes or returns."""
        return getattr(self.about, "rows_first", lambda x: x)(hidden)

    @property
    def ends(self) -> list[int]:
        """The first block of every list, and the one before the last of all."""
        firsts = [self.dit.first_index(record) for record in self.dit.family.lists]
        return sorted({*firsts, len(self.dit.blocks) - 2})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rewound(scheduler) -> None:
    """At its first step again, with what multistep solvers keep thrown away."""
    for name, value in vars(scheduler).items():
        if name in ("model_outputs", "timestep_list"):
            setattr(scheduler, name, [None] * len(value))
    for name, value in {"_step_index": None, "lower_order_nums": 0, "last_sample": None}.items():
        if hasattr(scheduler, name):
            setattr(scheduler, name, value)


@pytest.fixture(scope="module", params=list(TINY))
def subject(request):
    return Subject(request.param)


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() / b.abs().max() < 1e-4)


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_without_edits_the_stock_call_bit_for_bit(subject, s):
    if subject.most(s) != s:
        return  # refused, below
    latents, pictures = subject.stock(s)
    assert subject.dit.family is family_of(subject.dit.transformer, subject.dit.pipeline)
    prompt = subject.about.PROMPTS[0]
    off = dg.DetailGuidance(s, 0.0, dg.Disrupt(OFF, 1))
    for guidance in (dg.CFG(s) if s > 1 else None, off):
        made = dg.generate(subject.dit, prompt, seed=5, guidance=guidance, progress=False, **subject.call)
        ours, _ = run(subject.dit, prompt, seed=5, guidance=guidance, **subject.call)
        assert torch.equal(ours, latents)
        size = subject.dit.size(subject.call.get("height"), subject.call.get("width"))
        assert made.latents.ndim == 4 and made.images[0].size == size[::-1]
        theirs = getattr(subject.about, "shown", np.asarray)(np.asarray(pictures).reshape(*size, -1))
        assert np.array_equal(np.asarray(made.images[0]), (theirs * 255).round().astype("uint8"))
    for way in ("fork", "partial", "whole"):
        with dg.detail_guidance(subject.dit.pipeline, off, force=True, way=way):
            assert torch.equal(subject.stock(s)[0], latents)


def test_disrupt_is_a_plain_hook(subject):
    dit, s = subject.dit, subject.most(3.0)
    clean = subject.stock(s)[0]
    for block in subject.ends:
        hook = lambda m, i, o: subject.about.zero(o, OFF, subject.tokens)  # noqa: E731
        handle = dit.blocks[block].module.register_forward_hook(hook)
        theirs, _ = subject.stock(s)
        handle.remove()
        edits, prompt = [dg.Disrupt(OFF, block)], subject.about.PROMPTS[0]
        ours, _ = run(dit, prompt, seed=5, edits=edits, guidance=dg.CFG(s), **subject.call)
        assert torch.equal(ours, theirs) and not near(ours, clean)
    assert torch.equal(subject.stock(s)[0], clean)


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_guidance_is_a_loop_by_hand(subject, s):
    if subject.most(s) != s:
        return  # refused, below
    dit, prompt = subject.dit, subject.about.PROMPTS[0]
    clean, steps = subject.stock(s)[0], subject.call["steps"]
    for block in subject.ends:
        theirs = subject.by_hand(s, 0.8, block)
        guidance = dg.DetailGuidance(s, 0.8, dg.Disrupt(OFF, block))
        ours, count = run(dit, prompt, seed=5, guidance=guidance, **subject.call)
        assert near(ours, theirs) and not near(ours, clean)
        assert count.guided.notes == ((dit.family.rescaling,) if dit.family.rescaling and s > 1 else ())
        blocks, rows = len(dit.blocks), 2 if s > 1 else 1
        again = rows if getattr(subject.about, "RAGGED", False) else 1
        assert count.forwards == steps * (rows + again)
        assert count.block_calls == steps * (rows * blocks + again * (blocks - block - 1))
        for way in ("partial", "whole"):
            with dg.detail_guidance(dit.pipeline, guidance, way=way):
                assert near(subject.stock(s)[0], theirs)
    if getattr(subject.about, "SINGLE", False):
        return
    both, _ = run(dit, list(subject.about.PROMPTS), seed=[5, 6], guidance=guidance, **subject.call)
    assert near(both[:1], theirs) and not near(both[1:], both[:1])


def test_the_fork_or_its_stated_absence(subject, caplog):
    """One forward a step that grows in the middle, or two."""
    dit, calls = subject.dit, []
    hook = lambda m, i, o: calls.append(1)  # noqa: E731
    handle = dit.transformer.get_submodule(dit.family.tail).register_forward_hook(hook)
    guidance = dg.DetailGuidance(1.0, 0.8, dg.Disrupt(OFF, 1))
    run(dit, subject.about.PROMPTS[0], seed=5, guidance=guidance, **subject.call)
    handle.remove()
    assert len(calls) == subject.call["steps"] * (1 if dit.family.fork else 2)


def test_capture_and_trace(subject):
    """Every block's means as plain hooks find them; gates as they act; a trace's edit as `Disrupt` makes it."""
    dit, prompt, found = subject.dit, subject.about.PROMPTS[0], []
    s = subject.most(3.0)

    def keep(module, inputs, output):
        # what is zeroed is what the family calls image, so the difference finds it
        changed = subject.about.zero(output, list(range(dit.width)), subject.tokens)
        pairs = [(output, changed)] if isinstance(output, torch.Tensor) else zip(output, changed, strict=True)
        pair = next((a, b) for a, b in pairs if a is not None and not torch.equal(a, b))
        image, changed = map(subject.rows_first, pair)
        first = int((image != changed).any(-1).any(0).nonzero()[0])
        found.append(image[:, first : first + subject.tokens].clone())

    handles = [b.module.register_forward_hook(keep) for b in dit.blocks]
    made = dg.capture(dit, prompt, seeds=5, guidance=dg.CFG(s), rows="all", progress=False, **subject.call).data
    for handle in handles:
        handle.remove()
    assert made.sizes["token"] >= subject.tokens and made.sizes["site"] == len(dit.blocks)
    calls = 1 if subject.about.HALVES or s == 1 else 2
    first = found[: calls * len(dit.blocks)]
    for at in range(len(dit.blocks)):
        if calls == 2:
            rows = {"cond": first[at][0], "uncond": first[at + len(dit.blocks)][0]}
        else:
            names = subject.about.HALVES.split(", ") if s > 1 else ["cond"]
            rows = {name: first[at][i] for i, name in enumerate(names)}
        for branch, hidden in rows.items():
            ours = made["mean"].sel(stream="image", branch=branch).isel(site=at, step=0, prompt=0, seed=0)
            assert np.allclose(ours, hidden.mean(0), atol=1e-5)
    final = []
    with after_each_step(dit.pipeline, lambda i, latents: final.append(latents)):
        with dit.trace(prompt, seed=5, output_type="latent", guidance_scale=s, **subject.call) as traced:
            for _ in traced.steps:
                dit.blocks[1].image[..., OFF] = 0
    edited, _ = run(dit, prompt, seed=5, edits=[dg.Disrupt(OFF, 1)], guidance=dg.CFG(s), **subject.call)
    assert torch.equal(final[-1][:1], edited)


def test_a_closed_gate_writes_nothing(subject):
    """With `gate` a block leaves the channels as cross-attention, which has no gate, leaves them."""
    dit = subject.dit
    call = subject.calls(1.0)[0]
    for block in subject.ends:
        module, record, seen = dit.blocks[block].module, dit.blocks[block].record, {}

        def before(m, args, kwargs, seen=seen):
            named = inspect.signature(type(m).forward).bind(m, *args, **kwargs).arguments
            seen["in"] = subject.rows_first(named[getattr(subject.about, "HIDDEN", "hidden_states")])

        def after(m, i, o, seen=seen, record=record):
            seen["out"] = record.get(o, "image", subject.tokens + subject.references)

        cross = getattr(module, "attn2", None)
        handles = [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
        if cross is not None:
            handles.append(cross.register_forward_hook(lambda m, i, o, seen=seen: seen.update(cross=o)))
        edit = dg.Disrupt(OFF, block, "gate")
        with torch.no_grad(), attached(dit.transformer, dit.family, [edit], lambda inputs: CALL):
            dit.transformer(**call)
        for handle in handles:
            handle.remove()
        first = 0 if record.image_first else seen["in"].shape[1] - seen["out"].shape[1]
        written = seen["out"] - seen["in"][:, first : first + seen["out"].shape[1]] - seen.get("cross", 0)
        assert written[..., OFF].abs().max() < 1e-4 < written.abs().max()


def test_what_a_block_writes_adds_up(subject):
    """Gate x attention + gate x MLP, and cross-attention where there is one, are what a block adds to the stream."""
    dit, prompt = subject.dit, subject.about.PROMPTS[0]
    for index in {1, len(dit.blocks) - 2}:
        block, cross, sums = dit.blocks[index], [], []
        if block.record.mlp is None:
            with pytest.raises(AttributeError, match="runs its MLP more than once"):
                _ = block.mlp
            continue
        handles, gated = [], block.record.attn_dual if "gate_msa2" in block.record.modulation else ""
        other = block.module.get_submodule(gated) if gated else getattr(block.module, "attn2", None)
        if other is not None:
            handles.append(other.register_forward_hook(lambda m, i, o, cross=cross: cross.append(o)))
        with dit.trace(prompt, seed=5, output_type="latent", **subject.call) as traced:
            for _ in traced.steps:
                before = dit.blocks[index - 1].image
                chunks, written = block.modulation, 0
                if block.record.attn is not None and block.record.attn_gate is not None:
                    written = chunks[block.record.attn_gate][:, None] * block.attn
                written = written + chunks[block.record.mlp_gate][:, None] * block.mlp
                sums.append((block.image - before, written, chunks["gate_msa2"][:, None].clone() if gated else 1))
        for handle in handles:
            handle.remove()
        assert len(sums) == subject.call["steps"]
        for i, (difference, written, gate) in enumerate(sums):
            assert near(written + (gate * cross[i] if cross else 0), difference)


def test_a_crash_leaves_nothing(subject):
    dit, s = subject.dit, subject.most(3.0)
    before = subject.stock(s)[0]

    def crash(module, inputs, output):
        raise KeyboardInterrupt

    handle = dit.blocks[-1].module.register_forward_hook(crash)
    guidance = dg.DetailGuidance(None, 0.8, dg.Disrupt(OFF, 0))
    with pytest.raises(KeyboardInterrupt), dg.detail_guidance(dit.pipeline, guidance):
        subject.stock(s)
    handle.remove()
    assert torch.equal(subject.stock(s)[0], before)


def test_sizes_that_there_are_not(subject):
    side = subject.dit.pixels_per_token
    with pytest.raises(ValueError, match="size"):
        subject.dit.grid(side + 1, side)
    if not subject.about.SIZE:
        with pytest.raises(ValueError, match="only: leave height and width out"):
            subject.dit.grid(side, 2 * side)


def test_what_a_record_is_not_about_is_refused():
    dit, wan, flux2 = (dg.load(TINY[name].pipeline()) for name in ("dit", "wan", "flux2"))
    assert dit.prompts(["retriever", 207]) == [207, 207]
    for bad in ("no such thing", 1000, -1):
        with pytest.raises(ValueError, match=r"there are 0 to 999, and 2 names, such as 'golden retriever'"):
            dg.generate(dit, bad, progress=False)
    with pytest.raises(ValueError, match="takes no negative_prompt"):
        dit.arguments(207, negative_prompt="blurry")
    with pytest.raises(ValueError, match="'dit' predicts noise"):
        conditions(dit, [207])
    with pytest.raises(ValueError, match="half of what this transformer returns is a variance"):
        dg.generate(dit, 207, guidance=dg.CFG(3.0, guidance_rescale=0.5), progress=False)
    with pytest.raises(ValueError, match="'dit' has no text stream"):
        dg.generate(dit, 207, edits=dg.Disrupt([3], 1, stream="text"), progress=False)
    with pytest.raises(ValueError, match="use_resolution_binning=True requested; family 'sana' needs .*=False"):
        sana = TINY["sana"]
        dg.generate(dg.load(sana.pipeline()), "apple", use_resolution_binning=True, progress=False, **sana.SIZE)
    wan.pipeline.register_to_config(boundary_ratio=0.9)
    with pytest.raises(ValueError, match="is written for boundary_ratio=None; this WanPipeline has 0.9"):
        dg.load(wan.pipeline)
    with pytest.raises(ValueError, match="written for Flux2KleinPipeline and Flux2Pipeline; this is a Flux2KleinKV"):
        family_of(flux2.transformer, Flux2KleinKVPipeline.__new__(Flux2KleinKVPipeline))
    with pytest.raises(ValueError, match="Flux2Pipeline takes no true_cfg_scale: it has no classifier-free guidance"):
        dev = TINY["flux2_dev"]
        dg.generate(dg.load(dev.pipeline()), "apple", guidance=dg.CFG(3.0), progress=False, **dev.SIZE)


def test_what_a_callback_does_last_is_in_the_latents(subject):
    """The call's own callback changes the latents after every step; some pipelines give them back in another layout."""
    if "callback_on_step_end" not in inspect.signature(subject.dit.pipeline.__call__).parameters:
        return
    last = []

    def halved(pipeline, step, timestep, tensors):
        last[:] = [tensors["latents"] / 2]
        return {"latents": last[0]}

    ours, _ = run(subject.dit, subject.about.PROMPTS[0], seed=5, callback_on_step_end=halved, **subject.call)
    assert torch.equal(ours, last[0][: len(ours)])


def test_encoding_undoes_decoding_scale(subject):
    """What goes to the VAE comes back from it, in the scale of the noise."""
    dit = subject.dit
    layout, side = dit.family.latents, dit.vae_scale_factor
    height, width = dit.size(subject.call.get("height"), subject.call.get("width"))
    given = torch.randn(2, subject.channels, height // side, width // side, generator=seeded(0))
    assert near(layout.from_vae(dit.pipeline, layout.to_vae(dit.pipeline, given)), given)
    assert torch.equal(layout.unpack(dit.pipeline, layout.pack(dit.pipeline, given), height, width), given)


@pytest.mark.parametrize("name", [n for n, about in TINY.items() if hasattr(about, "MODULAR")])
@pytest.mark.parametrize("s", [1.0, 3.0])
def test_as_the_guider_of_a_modular_pipeline(name, s, caplog):
    """The same latents as the context manager's, and what the pipeline does afterwards is said."""
    subject = Subject(name)
    about, dit = subject.about, subject.dit
    getattr(about, "as_modular", lambda pipe: None)(dit.pipeline)
    blocks = getattr(modular_pipelines, about.MODULAR)()
    for part in getattr(about, "WITHOUT", ()):
        blocks.sub_blocks.pop(part)
    modular = blocks.init_pipeline()
    modular.update_components(**dit.pipeline.components, guider=dg.DetailGuidance(s, 0.8, dg.Disrupt(OFF, 1)))
    modular.set_progress_bar_config(disable=True)
    call = {**{k: v for k, v in subject.call.items() if k != "steps"}, **about.STOCK}
    words = {"prompt": about.PROMPTS[0]}
    if s > 1 and getattr(about, "NEGATIVE", True):
        words["negative_prompt"] = ""
    if hasattr(about, "embeds"):
        words = about.embeds(dit.pipeline)
    with caplog.at_level("WARNING", logger="dg_tools"):
        ours = modular(
            **words, **call, num_inference_steps=subject.call["steps"], generator=seeded(5), output="latents"
        )
    assert ("rescales every token" in caplog.text) == bool(dit.family.rescaling)
    guidance = dg.DetailGuidance(s, 0.8, dg.Disrupt(OFF, 1))
    theirs, _ = run(dit, about.PROMPTS[0], seed=5, guidance=guidance, **subject.call)
    if dit.family.rescaling and s == 1:
        return  # the modular pipeline rescales here too, the classic one does not
    size = dit.size(call.get("height"), call.get("width"))
    wanted = getattr(about, "modular_latents", lambda latents: latents)(spatial(dit, theirs, *size))
    assert near(spatial(dit, ours, *size), wanted)


def test_controls_are_matched_on_any_family_of_velocities(subject):
    """Sizes come from `dit`: Wan's pipeline has another name for its scale factor, and no tokens of its own."""
    dit = subject.dit
    if dit.family.prediction != "velocity":
        with pytest.raises(ValueError, match=f"predicts {dit.family.prediction}: one-step experiments are for"):
            conditions(dit, [subject.about.PROMPTS[0]])
        return
    if subject.references:
        call = {k: v for k, v in subject.call.items() if k != "steps"}
        with pytest.raises(ValueError, match=f"{subject.references} tokens of reference pictures"):
            conditions(dit, [subject.about.PROMPTS[0]], **call)
        return
    height, width = dit.size(subject.call.get("height"), subject.call.get("width"))
    side, (prompt, _) = dit.vae_scale_factor, subject.about.PROMPTS
    z = torch.randn(1, subject.channels, height // side, width // side, generator=seeded(3))
    call = {k: v for k, v in subject.call.items() if k not in ("steps", "height", "width")}
    inputs = conditions(dit, [prompt], height, width, **call)
    clean, edit = velocity(dit, z, 0.6, inputs), dg.Disrupt(OFF, 1)
    (matched,) = match_output(dit, edit, edit.controls(1, "dc"), z, 0.6, inputs, tolerance=0.2)
    moved, target = (output_change(dit, one, z, 0.6, inputs, clean).item() for one in (matched, edit))
    assert matched.strength > 0 and moved == pytest.approx(target, rel=0.2)
