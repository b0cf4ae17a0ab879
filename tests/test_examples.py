"""What a reader passes as prompts and pictures becomes one type, whatever its form; what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toy_model
from PIL import Image

import dg_tools as dg
from dg_tools import experiments
from dg_tools.datasets.examples import Example, axes_of, examples, masks_of, pictures_of, prompts_of
from dg_tools.datasets.pictures import as_picture, as_pictures

CALL = {"max_sequence_length": 8, "progress": False}
SETTINGS = {"channels": [3], "block": 1, **CALL}
SIZE = 32, 48  # not square


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """Two prompts with the same pictures and masks as tensors, PIL, paths and arrays."""
    folder, chance = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    arrays = [chance.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(2)]
    masks = [np.zeros(SIZE, np.uint8), np.full(SIZE, 255, np.uint8)]
    masks[0][:, :24], masks[1][:, :12] = 255, 0
    shown, covered = [Image.fromarray(a) for a in arrays], [Image.fromarray(m) for m in masks]
    for i in range(2):
        shown[i].save(folder / f"{i}.png")
        covered[i].save(folder / f"{i}-mask.png")
    tensors = [torch.from_numpy(a.copy()).permute(2, 0, 1).float() / 127.5 - 1 for a in arrays]
    every = {
        "tensor": (tensors, [torch.from_numpy(m / 255) for m in masks]),
        "PIL": (shown, covered),
        "path": ([folder / f"{i}.png" for i in range(2)], [folder / f"{i}-mask.png" for i in range(2)]),
        "text": ([str(folder / f"{i}.png") for i in range(2)], [str(folder / f"{i}-mask.png") for i in range(2)]),
        "array": (arrays, [m / 255 for m in masks]),
    }
    return {
        name: [(f"thing {i}", picture, mask) for i, (picture, mask) in enumerate(zip(*pair, strict=True))]
        for name, pair in every.items()
    }


def test_every_form_is_the_same_example(dits, forms):
    plain = examples(dits("sd3"), forms["tensor"], truth=True)
    assert [x.prompt for x in plain] == ["thing 0", "thing 1"]
    assert torch.equal(pictures_of(plain), torch.stack([x for _, x, _ in forms["tensor"]]))
    assert masks_of(plain)[0].mean() == 0.5 and not axes_of(plain).any()
    for name, items in forms.items():
        for again in (items, [Example(*item) for item in items], examples(dits("sd3"), items)):
            made = examples(dits("sd3"), again, truth=True)
            assert torch.equal(pictures_of(made), pictures_of(plain)), name
            assert torch.equal(masks_of(made), masks_of(plain)), name


def test_a_reference_has_a_mask_and_shaded_minus_flat(dits):
    source = dg.references()
    apple = source.reference("red apple", "shaded", "blue")
    shaded, flat = examples(dits("sd3"), [apple, apple.other_style], source, truth=True)
    assert torch.equal(shaded.axis, shaded.picture - flat.picture) and torch.equal(shaded.axis, flat.axis)
    assert torch.equal(shaded.mask, source.foreground(apple)) and shaded.reference is apple
    with pytest.raises(FileNotFoundError, match="no reference pictures"):
        examples(dits("sd3"), apple)


def test_one_item_is_a_list_of_one(dits, forms):
    dit = dits("sd3")
    assert prompts_of("owl") == ["owl"] and prompts_of(("owl", "fish")) == ["owl", "fish"]
    for one in forms["PIL"]:
        assert prompts_of(one) == [one[0]] == [x.prompt for x in examples(dit, one)]
    assert examples(dit, []) == [] and examples(dit, "owl")[0].picture is None


def test_what_does_not_fit_is_refused(dits, forms):
    dit, items = dits("sd3"), forms["tensor"]
    for given, error, words in (
        ([items[0][:2], "owl"], ValueError, "'owl' has no picture, and other prompts have one"),
        ([items[0], items[1][:2]], ValueError, "1 mask for 2 pictures"),
        ([items[0][:2], ("bright", torch.zeros(3, *SIZE))], ValueError, r"could be a picture in 0..1, or a bright one"),
        ([Example("wide", torch.zeros(3, 32, 64), span=(0, 2))], ValueError, r"span=\(0, 2\): pass \(-1, 1\)"),
        ([(*items[0][:2], torch.zeros(8, 8))], ValueError, r"masks of \(8, 8\)"),
        ([(*items[0][:2], torch.full(SIZE, 2.0))], ValueError, "values 0 to 1"),
        ([("odd", torch.full((3, 30, 48), -0.5))], ValueError, "multiples of 4 pixels"),
        ([("far", torch.full((3, *SIZE), 3.0))], ValueError, r"must lie in \[-1, 1\]"),
        ([("owl", 5)], TypeError, "not a picture"),
        ([("owl", "no-such.png")], FileNotFoundError, r"no-such\.png"),
        ([5], TypeError, "a prompt, a Reference"),
        ([("owl",)], TypeError, "a prompt, a Reference"),
        ([Example("axis", items[0][1], axis=torch.zeros(3, 8, 8))], ValueError, r"axis of \(3, 8, 8\)"),
    ):
        with pytest.raises(error, match=words):
            examples(dit, given)
    with pytest.raises(ValueError, match="compares with true pictures"):
        examples(dit, ["owl"], truth=True)


def wanted(array):
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1


def test_what_a_picture_is_by_its_values():
    array = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    first = torch.from_numpy(array.copy()).permute(2, 0, 1)
    last = array.astype(np.float64)
    for image in (
        first,  # bytes
        first.numpy(),
        torch.from_numpy(array),  # the channels last
        first.to(torch.int64),
        first.to(torch.float16),  # 0..255
        last,
        last / 255,  # 0..1, as scikit-image and matplotlib have it
        torch.from_numpy(last / 255),
        last / 127.5 - 1,
        first.double() / 127.5 - 1,
    ):
        assert torch.allclose(as_picture(image), wanted(array), atol=1e-6)
    unit = first.float() / 255
    for image in (unit, unit.numpy(), unit - 0.05):  # resizing takes 0..1 below 0
        with pytest.raises(ValueError, match=r"could be a picture in 0\.\.1, or a bright one in -1\.\.1"):
            as_picture(image)
    assert torch.allclose(as_picture(unit, span=(0, 1)), wanted(array), atol=1e-6)
    assert torch.equal(as_picture(unit, span=(-1, 1)), unit)
    assert torch.allclose(as_picture(first.float() * 0.05, span=(0, 255)), (wanted(array) + 1) * 0.05 - 1, atol=1e-6)
    stack = torch.stack([unit, -unit])
    assert torch.equal(as_pictures(stack), stack)  # one scale: the second says which


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.bool), "torch.bool is not a picture"),
        (np.zeros((4, 4, 4), np.uint8), r"an array \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), complex), "complex128 is not a picture"),
        (torch.full((3, 4, 4), torch.nan), "must lie in"),
        (np.full((4, 5, 3), 60000, np.uint16), r"run from 60000 to 60000; they must lie in \[0, 255\]"),
        (torch.full((3, 4, 4), 3.0), r"must lie in \[-1, 1\]"),
        (torch.zeros(3, 0, 4), "is empty"),
        (Image.new("F", (4, 4)), "more than 8 bits"),
        (Image.new("I", (4, 4)), "more than 8 bits"),
    ],
)
def test_what_is_refused_as_a_picture(image, words):
    with pytest.raises(ValueError, match=words):
        as_picture(image)


def test_transparent_parts_are_over_white():
    clear = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    made = as_picture(clear)
    assert made[:, 0, 0].tolist() == [1, -1, -1] and (made[:, 0, 1:] == 1).all()


def test_bright_pictures_stay_what_they_are_when_read_again(dits):
    bright = Image.new("RGB", (48, 32), (250, 200, 180))
    once = examples(dits("sd3"), [("a", bright), ("b", bright)])
    again = examples(dits("sd3"), once)
    assert torch.equal(pictures_of(again), pictures_of(once)) and pictures_of(once).min() > 0


def test_mixed_sizes_become_the_models_own(dits, caplog):
    """With their masks and axes; against PIL's own crop and resize."""
    dit, chance = dits("sd3"), np.random.default_rng(0)
    coarse = Image.fromarray(chance.integers(0, 256, (5, 7, 3), np.uint8))
    height, width = dit.size()
    items = []
    for tall, wide in ((80, 120), (64, 40), (height, width)):
        picture = coarse.resize((wide, tall), Image.Resampling.BICUBIC)
        half = torch.zeros(tall, wide)
        half[:, : wide // 2] = 1
        items.append(Example(f"{tall}", picture, half, torch.full((3, tall, wide), 0.5)))
    made = examples(dit, items)
    assert f"pictures of 3 sizes: each is cropped around its centre and resized to {height} x {width}" in caplog.text
    assert pictures_of(made).shape == (3, 3, height, width) and (axes_of(made) == 0.5).all()
    assert masks_of(made).mean((1, 2)).tolist() == pytest.approx([0.5] * 3, abs=0.01)
    for item, example in zip(items, made, strict=True):
        shown, side = item.picture, min(item.picture.width / width, item.picture.height / height)
        wide, tall = round(side * width), round(side * height)
        left, top = (shown.width - wide) // 2, (shown.height - tall) // 2
        inner = shown.crop((left, top, left + wide, top + tall)).resize((width, height), Image.Resampling.BICUBIC)
        assert (example.picture - wanted(np.array(inner))).abs().max() < 0.03
    with pytest.raises(ValueError, match="masks of"):
        examples(dit, [items[0], Example("b", items[1].picture, items[0].mask)])


def test_experiments_take_mixed_sizes_and_forms_in_one_list(dits, tmp_path):
    """PIL, a path, bytes, floats in 0..1, of four sizes: the same numbers as from tensors of the model's size."""
    dit, chance = dits("sd3"), np.random.default_rng(3)
    arrays = [chance.integers(0, 256, (*size, 3), np.uint8) for size in ((32, 48), (64, 40), (40, 40), (48, 96))]
    Image.fromarray(arrays[1]).save(tmp_path / "owl.png")
    forms = (Image.fromarray(arrays[0]), tmp_path / "owl.png", arrays[2], arrays[3] / 255)
    mixed = [(f"thing {i}", form) for i, form in enumerate(forms)]
    tensors = [(x.prompt, x.picture) for x in examples(dit, mixed)]
    assert {x.shape[1:] for _, x in tensors} == {dit.size()}

    def same(function):
        ours, theirs = function(mixed), function(tensors)
        assert len(theirs) and ours.equals(theirs)

    one = {"sigmas": (0.5,), "controls": 2}
    same(lambda x: dg.denoise_error(dit, x, [dg.Disrupt([3], 1)], sigmas=[0.5], **CALL).table)
    same(lambda x: experiments.denoise(dit, x, [0], further=False, **one, **SETTINGS).table)
    rhos = {"rhos": (0, 1, 2), "blocks": [1], "channels": [3], "scales": (), "cache": False}
    same(lambda x: experiments.dose(dit, x, **rhos, **one, **CALL).table)
    same(lambda x: dg.compare(dit, x, [None], steps=1, **CALL).table.drop(columns="seconds"))


def test_a_file_that_does_not_hold_a_picture(dits, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png does not hold a picture"):
        examples(dits("sd3"), ("owl", tmp_path / "text.png"))


@pytest.mark.parametrize("form", ["PIL", "path"])
def test_every_function_takes_every_form(form, dits, forms):
    """Pictures that are not square, as PIL and as paths: the same numbers as from tensors."""
    dit, tensors, items = dits("sd3"), forms["tensor"], forms[form]
    off = dg.Disrupt([3], 1)

    def same(function):
        ours, theirs = function(items), function(tensors)
        assert len(theirs) and ours.equals(theirs)

    same(lambda x: dg.denoise_error(dit, x, [off], sigmas=[0.5], **CALL).table)
    same(lambda x: dg.compare(dit, x, [None], steps=1, **CALL).table.drop(columns="seconds"))
    small = {"sigmas": (0.5,), "controls": 2, "further": False}
    same(lambda x: experiments.denoise(dit, x, [0], **small, **SETTINGS).table)
    same(lambda x: experiments.detail(dit, x, [0], steps=2, scales=(1.0,), controls=2, **SETTINGS).table)


def test_an_axis_of_ones_own_is_measured_along(dits, forms):
    items = [Example(prompt, picture, axis=torch.ones(3, *SIZE)) for prompt, picture, _ in forms["tensor"]]
    made = dg.denoise_error(dits("sd3"), items, [dg.Disrupt([3], 1)], sigmas=[0.5], **CALL)
    assert made.table["style_axis"].notna().any()


def test_correspondence_takes_paths(dits, forms):
    settings = {"channels": [3], "block": [1], "sigmas": [0.2], "controls": 2, "tasks": ["flipped"], **CALL}
    three = lambda form: [(f"{p} {i}", x) for i, (p, x, _) in enumerate([*forms[form], forms[form][0]])]  # noqa: E731
    ours, theirs = (experiments.correspondence(dits("sd3"), three(f), **settings) for f in ("path", "tensor"))
    assert ours.table.equals(theirs.table)


def test_experiments_that_need_words_only_look_at_no_picture(dits):
    """References of another model's folder, and a path where there is no file: the words are what counts."""
    from dg_tools.experiments.subject import choose

    items = [*dg.references().sample(2, seed=0), ("owl", "no-such.png"), "fish"]
    subject = choose(dits("sd3"), items, channels=[3], block=1, progress=False)
    assert subject.settings()["test"] == [items[0].prompt, items[1].prompt, "owl", "fish"]


def test_the_toy_models_own_references(tmp_path):
    toy = dg.load(toy_model.write(tmp_path))
    made = examples(toy, dg.references(toy).sample(2, seed=0), truth=True)
    assert pictures_of(made).shape == (2, 3, 32, 32) and masks_of(made).shape == (2, 32, 32)


def test_shaded_pictures_have_less_fine_detail_than_flat_ones():
    """So shaded - flat is not an axis of detail."""
    source = dg.references()
    styles = [source.pictures([source.reference(n, style) for n in source.names]) for style in ("shaded", "flat")]
    shaded, flat = (dg.metrics.band_power(x)["high"] for x in styles)
    assert (shaded < flat).double().mean() > 0.8 and (shaded / flat).log2().mean() < -0.3


def test_pictures_of_one_list_are_decoded_once(tmp_path):
    """A sheet holds every picture of a style; it was decoded again for each reference."""
    toy = dg.load(toy_model.write(tmp_path))
    made = examples(toy, dg.references(toy).sample(4, seed=0))
    assert len({id(x.references) for x in made}) == 1
