"""A folder of captioned pictures as `Example`s.

A caption stands in `fox.txt` beside `fox.png`, or in a row of `metadata.jsonl` or `metadata.csv` (the imagefolder
layout of Hugging Face's datasets).
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dg_tools.datasets.examples import Example
from dg_tools.datasets.pictures import SPAN, as_picture, fitted, from_file
from dg_tools.kinds import some

logger = logging.getLogger("dg_tools")

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".svg", ".jp2", ".psd", ".dng", ".cr2", ".nef")  # pictures, but not read
METADATA = ("metadata.jsonl", "metadata.csv")
COLUMNS = ("text", "caption")
WHERE = 'in {txt} beside it, or as a row of metadata.jsonl: {{"file_name": "{name}", "text": "what it shows"}}'


class Caption(NamedTuple):
    """A caption, and the file and line that it is from."""

    words: str
    source: str


def read_folder(path: str | Path, *, height: int, width: int, limit: int | None = None) -> list[Example]:
    """The captioned pictures of a folder and its subfolders, in the order of their names.

    Each picture is turned upright as its EXIF data say, and transparent parts are laid over white. It is then cropped
    around its centre to the shape of `height` x `width` and resized to that. A smaller picture is enlarged, and the log
    says so: it lacks fine detail. Of an animation, the first picture is read. Spaces and line ends in a caption become
    single spaces.

    Pictures are PNG, JPEG, WebP, BMP, TIFF and GIF. Files and folders whose names begin with a dot are left out, and so
    are files of other kinds. A link that leads out of the folder is not followed; the log names it.

    Args:
        path: the folder.
        height, width: of every picture, in pixels: sizes that the model takes, such as `*dit.size()`.
        limit: how many pictures are read, the first by name; captions are checked for all. None: all.

    Returns:
        `Example`s: the caption, and the picture as (3, height, width) in [-1, 1].

    Raises:
        FileNotFoundError, NotADirectoryError: no folder at the path.
        ValueError: no picture; a picture without a caption, with two, or that cannot be read; metadata that are damaged
            or name a file that is not in the folder; a size or a limit below 1.

    Example:
        >>> from PIL import Image
        >>> Path("foxes").mkdir()
        >>> Image.new("RGB", (96, 64), "orange").save("foxes/fox.png")
        >>> _ = Path("foxes/fox.txt").write_text("a fox")
        >>> found = read_folder("foxes", height=64, width=64)
        >>> found[0].prompt, found[0].picture.shape
        ('a fox', torch.Size([3, 64, 64]))
    """
    folder = Path(path)
    if min(height, width) < 1 or (limit is not None and limit < 1):
        raise ValueError(f"height={height}, width={width}, limit={limit}: at least 1 pixel and 1 picture are needed")
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder; pass one that holds pictures with captions")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: pass the folder that holds the pictures")
    files = files_in(folder)
    captions = captions_of(folder, files)
    shown, small = [], []
    for name, caption in list(captions.items())[:limit]:
        picture = from_file(folder / name)
        if picture.height < height or picture.width < width:
            small.append(f"{name} ({picture.height} x {picture.width})")
        shown.append(Example(caption.words, fitted(as_picture(picture), height, width), span=SPAN))
    if small:
        logger.warning(
            "%d of %d pictures are smaller than %d x %d and were enlarged, so they lack fine detail: %s",
            len(small), len(shown), height, width, some(small),
        )  # fmt: skip
    return shown


def files_in(folder: Path) -> list[str]:
    """Names of the files, relative to the folder, with / between folders, sorted; hidden ones are left out."""
    root, names, outside = folder.resolve(), [], []
    for at, folders, files in os.walk(folder):  # which does not follow links to folders
        own = [f for f in folders if not f.startswith(".")]
        links = [f for f in own if (Path(at) / f).is_symlink()]
        folders[:] = sorted(set(own) - set(links))
        for file in [*(f for f in files if not f.startswith(".")), *links]:
            name = (Path(at) / file).relative_to(folder).as_posix()
            if file in links or not (Path(at) / file).resolve().is_relative_to(root):
                outside.append(name)
            else:
                names.append(name)
    if outside:
        logger.warning("%s: links to folders, or out of this folder, are not followed: %s", folder, some(outside))
    return sorted(names)


def captions_of(folder: Path, files: list[str]) -> dict[str, Caption]:
    """The caption of each picture by its name, in the order of names.

    Raises:
        ValueError: no picture; a picture without a caption, with two, or of a kind that is not read.
    """
    pictures = [f for f in files if suffix(f) in PICTURES]
    unread = [f for f in files if suffix(f) in UNREAD]
    if unread:
        raise ValueError(f"{folder / unread[0]}: this kind of picture is not read; convert it to PNG or JPEG")
    if not pictures:
        raise ValueError(f"{folder} holds no picture: put {', '.join(PICTURES)} files there, each with a caption")
    found: dict[str, list[Caption]] = {name: [] for name in pictures}
    for file in files:
        if Path(file).name in METADATA:
            for name, caption in rows_of(folder, file):
                if name not in found:
                    raise ValueError(
                        f"{folder / file}: {caption.source} names {name}, which is not a picture in {folder} (a "
                        "link that leads out of it does not count): copy the picture there, or take the row out"
                    )
                found[name].append(caption)
    stems = {file[: -len(suffix(file))]: file for file in files if suffix(file) == ".txt"}
    taken: dict[str, str] = {}
    for name in pictures:
        text = stems.get(name[: -len(suffix(name))])
        if text is None:
            continue
        if text in taken:
            raise ValueError(f"{folder / text} stands beside both {taken[text]} and {name}: rename one of the pictures")
        taken[text] = name
        found[name].append(Caption(words_of(folder / text), text))
    without = [name for name, captions in found.items() if not captions]
    if without:
        first = Path(without[0])
        raise ValueError(
            f"{folder / first} has no caption ({len(without)} of {len(found)} pictures have none): write it "
            + WHERE.format(txt=first.with_suffix(".txt").name, name=first.name)
        )
    for name, captions in found.items():
        if len(captions) > 1:
            sources = " and ".join(c.source for c in captions)
            raise ValueError(f"{folder / name} has {len(captions)} captions, in {sources}: keep one")
        if not captions[0].words:
            raise ValueError(f"{folder / name} has an empty caption in {captions[0].source}: write what it shows")
    return {name: captions[0] for name, captions in found.items()}


def rows_of(folder: Path, file: str) -> Iterator[tuple[str, Caption]]:
    """The rows of a metadata file: the picture's name relative to the folder, and its caption.

    Raises:
        ValueError: a file that is not UTF-8, JSON Lines or CSV; a row without a file name or a caption.
    """
    table = csv_rows(folder / file) if file.endswith(".csv") else json_rows(folder / file)
    for line, row in table:
        where = f"{folder / file}, line {line}"
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise ValueError(f'{where}: a row needs a "file_name", the picture\'s path relative to this file')
        if None in row:
            raise ValueError(f"{where}: more columns than the first line names; put a caption with commas in quotes")
        columns = [c for c in COLUMNS if row.get(c) is not None]
        if len(columns) != 1 or not isinstance(row[columns[0]], str):
            what = "both are" if len(columns) > 1 else "neither is"
            raise ValueError(f'{where}: a row needs one caption, as "text" or "caption"; {what} there as a string')
        name = os.path.normpath((Path(file).parent / row["file_name"]).as_posix())
        yield Path(name).as_posix(), Caption(" ".join(row[columns[0]].split()), f"{file}, line {line}")


def json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and values of JSON Lines."""
    for number, line in enumerate(text_of(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: this is not JSON ({error}); write one object per line") from None


def csv_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and rows of a CSV file whose first line names the columns."""
    reader = csv.DictReader(io.StringIO(text_of(file), newline=""))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: this is not CSV ({error})") from None


def words_of(file: Path) -> str:
    """The caption in a text file."""
    return " ".join(text_of(file).split())


def text_of(file: Path) -> str:
    """The text in a file.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}): save it as UTF-8") from None


def suffix(name: str) -> str:
    """The ending of a file's name, in small letters."""
    return Path(name).suffix.lower()
