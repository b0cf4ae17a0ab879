"""Attention per head against a softmax written by hand: SD3, SD3.5 with its second attention, FLUX.1, PixArt."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import tiny
import torch

import dg_tools as dg
from dg_tools.activations import attention
from dg_tools.activations.attention_result import Attention
from dg_tools.forward import attention as products

IMAGE, TEXT = 96, {"sd3": 24, "flux": 8}  # SD3 has the CLIP tokens before those of T5
CALL = {**tiny.SIZE, "steps": 2, "max_sequence_length": 8, "progress": False}


def state(dit):
    """What stands on the modules: their own forwards (nnsight's, where another test wrapped them) and hooks."""
    return [
        (vars(m).get("forward"), len(m._forward_pre_hooks), len(m._forward_hooks)) for m in dit.transformer.modules()
    ]


def rotated(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """(rows, heads, tokens, channels): pairs of neighbouring channels turned by their angles."""
    if rotary is None:
        return x
    cos, sin = rotary
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([-odd, even], -1).flatten(-2)
    return x * cos + turned * sin


def by_hand(attn, hidden, text=None, rotary=None, mask=None, cross=False) -> torch.Tensor:
    """The weights (rows, heads, queries, keys) of an attention module, from its inputs."""
    heads = lambda x, norm: split(x) if norm is None else norm(split(x))  # noqa: E731
    split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
    norms = [getattr(attn, f"norm_{n}", None) for n in ("q", "k", "added_q", "added_k")]
    query = heads(attn.to_q(hidden), norms[0])
    key = heads(attn.to_k(text if cross else hidden), norms[1])
    if text is not None and not cross:
        words = heads(attn.add_q_proj(text), norms[2]), heads(attn.add_k_proj(text), norms[3])
        first = rotary is not None  # FLUX.1 has its text before the image
        query, key = (torch.cat([w, x] if first else [x, w], 2) for w, x in zip(words, (query, key), strict=True))
    query, key = rotated(query, rotary), rotated(key, rotary)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + mask[:, None]
    exact = torch.exp(scores - scores.amax(-1, keepdim=True))
    return exact / exact.sum(-1, keepdim=True)


@contextmanager
def watched(dit, paths):
    """(block, path) -> the weights of each call, by hand, from what the module is given."""
    seen: dict[tuple[int, str], list[torch.Tensor]] = {}
    handles = []
    for block in dit.blocks:
        for path in paths:
            module = getattr(block.module, path, None)
            if module is None:
                continue

            def before(module, args, kwargs, key=(block.index, path)):
                hidden = args[0] if args else kwargs["hidden_states"]
                text, rotary = kwargs.get("encoder_hidden_states"), kwargs.get("image_rotary_emb")
                cross = key[1] == "attn2" and text is not None
                with torch.no_grad():
                    weights = by_hand(module, hidden, text, rotary, kwargs.get("attention_mask"), cross)
                seen.setdefault(key, []).append(weights)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def image_first(weights: torch.Tensor, family: str) -> torch.Tensor:
    """Both axes with the image's tokens first."""
    if family == "sd3" or weights.shape[-1] == IMAGE:
        return weights
    text = weights.shape[-1] - IMAGE
    order = [*range(text, text + IMAGE), *range(text)]
    return weights[..., order, :][..., order]


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_equal_to_a_softmax_by_hand(dit, s, monkeypatch):
    """Mass by head and stream, whole maps, a word's map: every block and step, in parts of a few queries."""
    monkeypatch.setattr(products, "AT_ONCE", 2 * 120 * 7)  # seven queries at once
    last, before = len(dit.blocks) - 1, state(dit)
    settings = {"guidance": dg.CFG(s), "rows": "all", "words": "red", "maps": [0, last], "map_steps": [1], **CALL}
    with watched(dit, ("attn", "attn2")) as seen:
        found = attention(dit, "a red apple", seeds=3, **settings)
    family, data, text = dit.family.name, found.data.isel(prompt=0, seed=0), TEXT[dit.family.name]
    branches = ["cond", "uncond"] if s > 1 else ["cond"]
    assert data["branch"].values.tolist() == branches and data.sizes["key"] == IMAGE + text
    dual = [0, 1] if "dual" in str(dict(dit.transformer.config)) and getattr(dit.blocks[0].module, "attn2", 0) else []
    assert data["site"].values.tolist() == [
        label for b in dit.blocks for label in (b.name, *([f"{b.name}.attn2"] if b.index in dual else []))
    ]
    pieces = found.data["piece"].values[0, IMAGE:]
    word = [i for i, p in enumerate(pieces) if p in ("r", "e", "d")][:3]
    assert "".join(pieces[word]) == "red"
    for place, label in enumerate(data["site"].values):
        block, path = int(data["block"].values[place]), "attn2" if label.endswith("attn2") else "attn"
        for step in range(2):
            for branch in branches:
                if family == "sd3":
                    row = (1 if branch == "cond" else 0) if s > 1 else 0
                    known = seen[block, path][step][row]
                else:
                    known = seen[block, path][step * len(branches) + branches.index(branch)][0]
                known = image_first(known, family).numpy()
                at = data.sel(step=step, branch=branch, site=label)
                mass = at["mass"].values
                n = known.shape[-1]
                assert np.allclose(mass[:, 0, :n], known[:, :IMAGE].mean(1), atol=1e-6)
                assert np.allclose(mass[:, 0, :n].sum(-1), 1, atol=1e-5)
                if path == "attn2":
                    assert np.isnan(mass[:, 1]).all() and np.isnan(mass[:, 0, IMAGE:]).all()
                    continue
                assert np.allclose(mass[:, 1], known[:, IMAGE:].mean(1), atol=1e-6)
                tokens = tokens_of_red(dit, text)
                field = known[:, :IMAGE, [IMAGE + t for t in tokens]].sum(-1).reshape(-1, 8, 12)
                assert np.allclose(at["word_map"].sel(word="red").values, field, atol=1e-6)
                if step == 1 and block in (0, last):
                    whole = data["weights"].sel(branch=branch, map_step=1, map_site=label).values
                    assert np.allclose(whole, known, atol=1e-6)
    assert state(dit) == before


def tokens_of_red(dit, text: int) -> list[int]:
    """Where `red` is: one token a letter; CLIP begins with a mark of its own, T5 with one for the space of a word."""
    clip = [1 + len("a") + i for i in range(3)] if dit.family.name == "sd3" else []
    ids = (
        dit.pipeline.tokenizer_3("a red apple") if dit.family.name == "sd3" else dit.pipeline.tokenizer_2("a red apple")
    )
    tokenizer = dit.pipeline.tokenizer_3 if dit.family.name == "sd3" else dit.pipeline.tokenizer_2
    letters = [p.replace("\u2581", "") for p in tokenizer.convert_ids_to_tokens(ids["input_ids"])]
    begin = "".join(x or " " for x in letters).index("red")
    first = 16 if dit.family.name == "sd3" else 0
    return clip + [first + begin + i for i in range(-1, 3)]


@pytest.fixture(scope="module")
def pixart():
    return dg.load(tiny.families()["pixart"].pipeline())


def test_pixart_attends_to_itself_and_to_the_text(pixart):
    call = {**tiny.SIZE, **{k: v for k, v in tiny.families()["pixart"].CALL.items() if k != "steps"}}
    with watched(pixart, ("attn1", "attn2")) as seen:
        found = attention(pixart, "red", steps=2, words=["red"], blocks=[1, 3], progress=False, **call)
    data = found.data.isel(prompt=0, seed=0, branch=0)
    assert data["site"].values.tolist() == ["1", "1.attn2", "3", "3.attn2"]
    for label in data["site"].values:
        block, path = int(label[0]), "attn2" if "attn2" in label else "attn1"
        known = seen[block, path][1][0].numpy()
        mass = data["mass"].sel(site=label, step=1, query="image").values
        own = mass[:, :IMAGE] if path == "attn1" else mass[:, IMAGE:]
        assert np.allclose(own, known.mean(1), atol=1e-6)
        assert np.isnan(np.delete(mass, np.arange(IMAGE) if path == "attn1" else np.arange(IMAGE, 104), -1)).all()
    pads = found.data["pad"].values[0, IMAGE:]
    assert pads.tolist() == [False] * 5 + [True] * 3  # the mark of a word, three letters, the end
    assert found.data["mass"].sel(site="1.attn2").isel(key=slice(IMAGE + 5, None)).sum() < 1e-6
    whole = seen[3, "attn2"][1][0].numpy()[:, :, :4].sum(-1).reshape(-1, 8, 12)
    assert np.allclose(data["word_map"].sel(site="3.attn2", step=1, word="red").values, whole, atol=1e-6)
    assert found.word_map("red").shape == (8, 12)


def test_pads_words_and_tables(dits):
    dit = dits("flux")
    found = attention(dit, ["ab", "a b"], steps=1, **{k: v for k, v in CALL.items() if k != "steps"})
    pads = found.data["pad"].values[:, IMAGE:]
    counts = [len(dit.pipeline.tokenizer_2(p)["input_ids"]) for p in ("ab", "a b")]
    assert pads.sum(1).tolist() == [8 - c for c in counts] and not found.data["pad"].values[:, :IMAGE].any()
    shares = found.by_stream().query("query == 'image'")
    assert np.allclose(shares["image"] + shares["text"], 1, atol=1e-5) and (shares["pad"] <= shares["text"]).all()
    mass = found.data["mass"].sel(query="image")
    first = (
        mass.isel(prompt=0).where(found.data["pad"].isel(prompt=0)).sum("key").mean(["seed", "branch", "step", "head"])
    )
    second = (
        mass.isel(prompt=1).where(found.data["pad"].isel(prompt=1)).sum("key").mean(["seed", "branch", "step", "head"])
    )
    assert np.allclose(shares["pad"], (first + second).values / 2, atol=1e-6)
    top = found.sinks(4)
    mean = mass.mean(["prompt", "seed", "branch", "step", "head", "site"]).values
    assert np.allclose(top["mass"], np.sort(mean)[::-1][:4]) and np.allclose(top["times"], top["mass"] * (IMAGE + 8))
    assert np.allclose(found.token_mass("text"), mean[IMAGE:]) and len(found.token_mass("image")) == IMAGE
    assert isinstance(found.plot().axes, list) and len(found.plot().axes) == 2


def test_a_guided_run_reads_its_clean_pass(dits):
    """Inside Detail Guidance the disrupted pass is let through."""
    dit = dits("sd3")
    plain = attention(dit, "apple", **CALL)
    guider = dg.DetailGuidance(1.0, 0.5, disrupt=dg.Disrupt([3], 2))
    with dg.detail_guidance(dit, guider):
        guided = attention(dit, "apple", **CALL)
    for found in (plain, guided):
        assert not np.isnan(found.data["mass"].values).any()
    assert np.allclose(plain.data["mass"].isel(step=0), guided.data["mass"].isel(step=0), atol=1e-5)
    assert not np.allclose(plain.data["mass"].isel(step=1), guided.data["mass"].isel(step=1), atol=1e-5)


def test_nothing_is_left_after_an_exception(dits):
    dit = dits("sd3")
    before = state(dit)
    handle = dit.blocks[2].module.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attention(dit, "apple", **CALL)
    handle.remove()
    assert state(dit) == before


REFUSED = {
    "word": ({"words": ["owl"]}, ValueError, "'owl' is not in this prompt; its tokens are: .*a p p l e"),
    "block": ({"blocks": [4]}, IndexError, "4.*0 to 3"),
    "map": ({"blocks": [1], "maps": [2]}, ValueError, r"maps of blocks \[2\] requested"),
    "steps alone": ({"map_steps": [0]}, ValueError, "map_steps given without maps="),
    "step": ({"maps": [1], "map_steps": [2]}, IndexError, "there are 0 to 1"),
    "cap": ({"maps": [1], "cap": 10_000}, MemoryError, "weights .* MiB.*4 products.*cap"),
    "guidance": ({"guidance": dg.CFG(3.0, start=0.5)}, ValueError, r"takes a plain dg.CFG\(s\) or None, not a CFG"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_forward(case, dits):
    dit, (changed, error, words) = dits("sd3"), REFUSED[case]
    counted = []
    handle = dit.blocks[0].module.register_forward_hook(lambda *_: counted.append(1))
    with pytest.raises(error, match=words):
        attention(dit, "apple", **{**CALL, **changed})
    handle.remove()
    assert not counted


def test_other_families_are_refused_in_a_sentence():
    dit = dg.load(tiny.families()["sana"].pipeline())
    with pytest.raises(ValueError, match="record of family 'sana' names no attention products"):
        attention(dit, "apple", progress=False)


def test_another_backend_is_an_error_and_not_a_gap(dits):
    dit = dits("flux")

    class Own:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, *others, **kwargs):
            return (hidden_states, encoder_hidden_states)

    attn = dit.blocks[1].module.attn
    before, attn.processor = attn.processor, Own()
    try:
        with pytest.raises(RuntimeError, match="computed 0 of torch's own products"):
            attention(dit, "apple", **CALL)
    finally:
        attn.processor = before


def test_the_map_of_a_word_needs_the_word():
    empty = Attention(attention_data := tiny_data())
    with pytest.raises(KeyError, match="word 'owl' has no map; none was kept"):
        empty.word_map("owl")
    with pytest.raises(ValueError, match=r"blocks \[0\]"):
        empty.mean_mass(blocks=[3])
    with pytest.raises(ValueError, match="k=0"):
        empty.sinks(0)
    assert attention_data.sizes["key"] == 3


def tiny_data():
    import xarray as xr

    mass = np.full((1, 1, 1, 1, 1, 1, 2, 3), 1 / 3, np.float32)
    dims = ("prompt", "seed", "branch", "step", "site", "head", "query", "key")
    coords = {"query": ["image", "text"], "site": ["0"], "block": ("site", [0]), "stream": ("key", ["image"] * 3)}
    return xr.Dataset({"mass": (dims, mass)}, {**coords, "token": ("key", [0, 1, 2])})


def test_heads_share_keys_where_a_model_says_so():
    """Grouped queries, a causal mask, a mask of bools and a scale of its own, against torch's own product."""
    chance = torch.Generator().manual_seed(0)
    make = lambda heads: torch.randn(2, heads, 5, 8, generator=chance)  # noqa: E731
    query, key, value = make(4), make(2), torch.eye(5).expand(2, 2, 5, 5)
    mask = torch.rand(2, 1, 5, 5, generator=chance) > 0.3
    mask[..., 0] = True
    cases = [{"enable_gqa": True, "attn_mask": mask, "scale": 0.7}, {"enable_gqa": True, "is_causal": True}]
    for settings in cases:
        known = torch.nn.functional.scaled_dot_product_attention(query, key, value, **settings)
        for row in range(2):
            product = products.Product({"query": query, "key": key, "value": value, **settings}, row)
            assert torch.allclose(product.weights(slice(0, 5)), known[row], atol=1e-6)
            assert torch.allclose(product.mass(slice(1, 4)), known[row][:, 1:4].mean(1), atol=1e-6)
