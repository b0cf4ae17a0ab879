"""A folder of captioned pictures becomes examples; what is wrong with one is said with the file's name."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from dg_tools.datasets.examples import examples
from dg_tools.datasets.folder import read_folder
from dg_tools.datasets.pictures import SPAN
from dg_tools.datasets.prompts import GENERAL, general_prompts, read_prompts

SIZE = {"height": 32, "width": 48}


def draw(file, height=80, width=100, mode="RGB", seed=0):
    """A smooth picture in a file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
    return picture


@pytest.fixture
def folder(tmp_path):
    """Two pictures with captions beside them, one in a subfolder."""
    root = tmp_path / "foxes"
    draw(root / "fox.png", seed=1)
    (root / "fox.txt").write_text("a red fox\n  in the snow\n", encoding="utf-8")
    draw(root / "more" / "owl.JPG", 90, 60, seed=2)
    (root / "more" / "owl.txt").write_text("\ufeffan owl", encoding="utf-8")
    return root


def test_captions_beside_pictures(folder, dits):
    (folder / ".cache").mkdir()
    (folder / ".cache" / "old.png").write_text("hidden")
    (folder / "LICENSE").write_text("no picture")
    made = read_folder(folder, **SIZE)
    assert [x.prompt for x in made] == ["a red fox in the snow", "an owl"]
    assert all(x.picture.shape == (3, 32, 48) and x.span == SPAN for x in made)
    assert [x.prompt for x in read_folder(folder, **SIZE, limit=1)] == ["a red fox in the snow"]
    again = examples(dits("sd3"), made, truth=True)
    assert all(torch.equal(a.picture, b.picture) for a, b in zip(again, made, strict=True))


@pytest.mark.parametrize("shape", [(80, 100), (40, 200), (200, 40), (32, 48)])
def test_cropped_around_the_centre_then_resized(shape, tmp_path):
    """Against PIL's own crop and resize."""
    picture = draw(tmp_path / "a.png", *shape)
    (tmp_path / "a.txt").write_text("a")
    tall, wide = min(shape[0], round(shape[1] * 32 / 48)), min(shape[1], round(shape[0] * 48 / 32))
    top, left = (shape[0] - tall) // 2, (shape[1] - wide) // 2
    inner = picture.crop((left, top, left + wide, top + tall)).resize((48, 32), Image.Resampling.BICUBIC)
    wanted = torch.from_numpy(np.array(inner)).permute(2, 0, 1).float() / 127.5 - 1
    made = read_folder(tmp_path, **SIZE)[0].picture
    assert (made - wanted).abs().max() < 0.02 and made.abs().max() <= 1


def test_turned_upright_and_over_white(tmp_path):
    sideways = Image.fromarray(np.repeat(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), 48, 1).repeat(16, 0))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    sideways.save(tmp_path / "a.png", exif=exif)
    Image.new("RGBA", (48, 32), (0, 0, 0, 0)).save(tmp_path / "b.png")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    turned, clear = (x.picture for x in read_folder(tmp_path, **SIZE))
    assert turned[2, 0, 0] == 1 and turned[0, 0, 0] == -1 and turned[0, -1, 0] == 1  # blue above
    assert (clear == 1).all()


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("column", ["text", "caption"])
def test_metadata_of_an_imagefolder(kind, column, tmp_path):
    draw(tmp_path / "train" / "a.png")
    draw(tmp_path / "train" / "deep" / "b.webp")
    rows = [
        {"file_name": "deep/b.webp", column: 'b, "quoted"\u2028twice', "id": 1},
        {"file_name": "a.png", column: "ä"},
    ]
    with open(tmp_path / "train" / f"metadata.{kind}", "w", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, ["file_name", column, "id"])
            table.writeheader()
            table.writerows(rows)
    made = read_folder(tmp_path, **SIZE)
    assert [x.prompt for x in made] == ["ä", 'b, "quoted" twice']


def row(name, **more):
    return json.dumps({"file_name": name, "text": "words", **more}) + "\n"


WRONG = {
    "no caption": (lambda f: draw(f / "hen.png"), r"hen\.png has no caption \(1 of 3 .*write it in hen\.txt"),
    "empty caption": (lambda f: (f / "fox.txt").write_text(" \n"), r"fox\.png has an empty caption in fox\.txt"),
    "broken picture": (lambda f: (f / "fox.png").write_bytes(b"\x89PNG\r\n\x1a\n broken"), r"fox\.png does not hold"),
    "cut picture": (lambda f: (f / "fox.png").write_bytes((f / "fox.png").read_bytes()[:300]), r"fox\.png does not"),
    "16 bits": (lambda f: Image.new("I;16", (64, 64)).save(f / "fox.png"), r"fox\.png: .*more than 8 bits"),
    "text and row": (
        lambda f: (f / "metadata.jsonl").write_text(row("fox.png")),
        r"fox\.png has 2 captions, in metadata\.jsonl, line 1 and fox\.txt",
    ),
    "two rows": (
        lambda f: (f / "more" / "metadata.jsonl").write_text(row("owl.JPG") + "\n" + row("./owl.JPG")),
        r"owl\.JPG has 3 captions, in more/metadata\.jsonl, line 1 and more/metadata\.jsonl, line 3",
    ),
    "two pictures": (lambda f: draw(f / "fox.bmp"), r"fox\.txt stands beside both fox\.bmp and fox\.png"),
    "row without picture": (lambda f: (f / "metadata.jsonl").write_text(row("hen.png")), r"line 1 names hen\.png"),
    "row outside": (lambda f: (f / "metadata.jsonl").write_text(row("../a.png")), r"names \.\./a\.png, which is not"),
    "not JSON": (lambda f: (f / "metadata.jsonl").write_text("{"), r"metadata\.jsonl, line 1: this is not JSON"),
    "no file_name": (
        lambda f: (f / "metadata.jsonl").write_text('{"text": "a"}'),
        r'line 1: a row needs a "file_name"',
    ),
    "no text": (lambda f: (f / "metadata.jsonl").write_text('{"file_name": "fox.png"}'), "neither is there"),
    "both": (lambda f: (f / "metadata.jsonl").write_text(row("fox.png", caption="b")), "both are there"),
    "commas": (
        lambda f: (f / "metadata.csv").write_text("file_name,text\nfox.png,a, b\n"),
        r"metadata\.csv, line 2: more columns",
    ),
    "latin": (lambda f: (f / "fox.txt").write_bytes(b"f\xfcchs"), r"fox\.txt is not UTF-8"),
    "HEIC": (lambda f: (f / "hen.heic").write_bytes(b"x"), r"hen\.heic: this kind of picture is not read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case, folder):
    spoil, words = WRONG[case]
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        read_folder(folder, **SIZE)


def test_no_folder_and_none_with_pictures(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such: there is no such folder"):
        read_folder(tmp_path / "no-such", **SIZE)
    with pytest.raises(NotADirectoryError, match=r"fox\.png is a file"):
        read_folder(folder / "fox.png", **SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no picture"):
        read_folder(tmp_path / "empty", **SIZE)
    for wrong in ({"height": 0}, {"width": -8}, {"limit": 0}):
        with pytest.raises(ValueError, match="at least 1 pixel"):
            read_folder(folder, **{**SIZE, **wrong})


def test_a_size_that_the_model_cannot_take(folder, dits):
    with pytest.raises(ValueError, match="30 x 48 .* multiples of 4 pixels"):
        examples(dits("sd3"), read_folder(folder, height=30, width=48))


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path, caplog):
    draw(tmp_path / "secret" / "hen.png")
    (tmp_path / "secret" / "words.txt").write_text("a password")
    try:
        (folder / "hen.png").symlink_to(tmp_path / "secret" / "hen.png")
    except OSError:
        pytest.skip("no links on this system")
    (folder / "secret").symlink_to(tmp_path / "secret", target_is_directory=True)
    with caplog.at_level(logging.WARNING, "dg_tools"):
        assert [x.prompt for x in read_folder(folder, **SIZE)] == ["a red fox in the snow", "an owl"]
    assert "hen.png, secret" in caplog.text and "not followed" in caplog.text
    (folder / "fox.txt").unlink()
    (folder / "fox.txt").symlink_to(tmp_path / "secret" / "words.txt")
    with pytest.raises(ValueError, match=r"fox\.png has no caption"):
        read_folder(folder, **SIZE)
    linked = tmp_path / "link"
    linked.symlink_to(folder, target_is_directory=True)
    (folder / "fox.txt").unlink()
    (folder / "fox.txt").write_text("a fox")
    assert [x.prompt for x in read_folder(linked, **SIZE)] == ["a fox", "an owl"]  # the folder itself may be a link


def test_what_is_enlarged_is_said(folder, caplog):
    with caplog.at_level(logging.WARNING, "dg_tools"):
        read_folder(folder, height=32, width=64)
    assert "1 of 2 pictures are smaller than 32 x 64" in caplog.text and "owl.JPG (90 x 60)" in caplog.text


def test_general_prompts_and_a_file_of_prompts(tmp_path):
    assert general_prompts(3) == list(GENERAL[:3]) and len(set(GENERAL)) == len(GENERAL) == 32
    with pytest.raises(ValueError, match="33 general prompts requested; there are 32"):
        general_prompts(33)
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeff# mine\r\na fox\r\n\r\n  an owl \r\n".encode())
    assert read_prompts(file) == ["a fox", "an owl"]
    for data, words in (
        (b"a\nb\na\n", "line 3 repeats the prompt of line 1"),
        (b"# nothing\n\n", "holds no prompt"),
        (b"\xff\xfe\xfa", "is not UTF-8 text"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            read_prompts(file)
    with pytest.raises(FileNotFoundError, match="no-such"):
        read_prompts(tmp_path / "no-such.txt")
