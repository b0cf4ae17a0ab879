"""A report as it is kept and as a page: nothing is lost, nothing is markup that was not meant, nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import hand_report
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from dg_tools.plots.report import gates_figure
from dg_tools.report import figures, kept_run
from dg_tools.report import page as page_of_report
from dg_tools.report.cells import interval
from dg_tools.report.sections import KEYS, Figure, Report, Section, Table, anchor
from dg_tools.report.verdict import Row


@pytest.fixture(scope="module")
def made() -> Report:
    return hand_report.report()


@pytest.fixture(scope="module")
def kept(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "report"
    assert made.save(folder) == folder / "index.html"
    return folder


class Page(HTMLParser):
    """Tags, attributes and words of a page, and the words of each row by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.rows: dict[str, str] = {}
        self.row = ""
        self.scripts: list[tuple[list, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append((attrs, ""))
        self.values += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.row = dict(attrs).get("id", "")

    def handle_data(self, data):
        if self.tags[-1:] == ["script"] and not self.scripts[-1][1]:
            self.scripts[-1] = self.scripts[-1][0], data
        self.words.append(data)
        if self.row:
            self.rows[self.row] = self.rows.get(self.row, "") + data


def refused(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def test_it_shows_model_claims_and_page(made, kept):
    counts = {status: [row.status for row in made.claims].count(status) for status in ("holds", "does not hold")}
    assert counts["holds"] > 1 and counts["does not hold"] == 1
    said = repr(made)
    assert "model: tiny-sd3; prompts: 0 to choose on, 0 to measure on" in said and ".save(folder) writes it" in said
    assert f"claims: {counts['holds']} hold" in said and ", 1 does not hold" in said
    assert "weak model: channels 3, 17 x 2 after block 5" in said
    again = Report.open(kept)
    assert f"page: {kept / 'index.html'}" in repr(again)
    html = again._repr_html_()
    assert "Report on tiny-sd3" in html and str(kept) in html and "What they do: " in html


def test_nothing_is_lost(made, kept):
    record = json.loads((kept / "report.json").read_text(encoding="utf-8"), parse_constant=refused)
    again = Report.open(kept)
    assert again.to_json() == made.to_json() == record
    assert again.sections == made.sections and again.claims == made.claims and again.html() == made.html()
    assert record["provenance"]["nan"] is None and record["sections"][1]["tables"][0]["rows"][4][3] is None
    assert json.loads((kept / "profile.json").read_text(encoding="utf-8")) == made.profile
    drawn = [f for s in record["sections"] for f in s["figures"]]
    assert len(drawn) == 7 and all((kept / f["file"]).is_file() and f["numbers"] for f in drawn)
    nothing = replace(made, profile=None)
    nothing.save(kept)
    assert not (kept / "profile.json").exists()
    made.save(kept)
    broken = replace(made, claims=[*made.claims[:-1], Row("x", "1", "x", "undecided", (float("nan"),) * 3)])
    broken.save(kept)
    assert np.isnan(Report.open(kept).claims[-1].number).all() and "- (-, -)" in broken.html()
    made.save(kept)


def test_what_is_missing_or_damaged_is_named(made, kept, tmp_path):
    with pytest.raises(FileNotFoundError, match="dg-tools report MODEL"):
        Report.open(tmp_path)
    made.save(tmp_path)
    (tmp_path / "figures" / "dose.svg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks figures/dose\.svg"):
        Report.open(tmp_path)
    made.save(tmp_path)
    (tmp_path / "run.safetensors").write_bytes(b"no numbers")
    with pytest.raises(ValueError, match=r"run\.safetensors is damaged"):
        Report.open(tmp_path)
    (tmp_path / "run.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks run\.safetensors"):
        Report.open(tmp_path)
    with pytest.raises(FileExistsError, match="a report on 'tiny-sd3', and this is one on 'other'"):
        replace(made, model="other").save(kept)
    assert Report.open(kept).model == "tiny-sd3"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="pass a folder for the report"):
        made.save(tmp_path / "file")


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"sections": lambda s: s[1:]}, "in this order"),
        ({"sections": lambda s: [replace(s[0], tables=()), *s[1:]]}, "'facts' shows nothing and gives no reason"),
        ({"sections": lambda s: [replace(s[0], missing="gone"), *s[1:]]}, "'facts' shows something and says"),
        ({"claims": lambda c: ()}, "'claims' shows nothing"),
        ({"claims": lambda c: [*c, replace(c[0], key="Capable!")]}, "claims of a report are named capable"),
        ({"sections": lambda s: [replace(s[0], figures=s[1].figures), *s[1:]]}, "figures of a report are named"),
    ],
)
def test_a_report_that_is_not_whole_is_refused(made, changed, words):
    with pytest.raises(ValueError, match=words):
        replace(made, **{name: change(getattr(made, name)) for name, change in changed.items()})


def test_tables_and_numbers_are_plain():
    rows = Table("t", ["a", "b"], [[np.int64(3), np.float32("nan")], ["x", np.float64(0.5)]]).rows
    assert rows == ((3, None), ("x", 0.5)) and type(rows[0][0]) is int and type(rows[1][1]) is float
    with pytest.raises(ValueError, match="row 1 has 1 values, and there are 2 columns"):
        Table("t", ["a", "b"], [[1, 2], [1]])
    for wrong in (True, [1], object()):
        with pytest.raises(TypeError, match="str, int, float and None are allowed"):
            Table("t", ["a"], [[wrong]])
    figure = Figure("a-b", "t", "<svg/>", {"x": np.array([1.0, np.inf]), 3: np.float32(2)})
    assert figure.numbers == {"x": [1.0, None], "3": 2.0}
    with pytest.raises(TypeError, match="numbers of figure 'a'"):
        Figure("a", "t", "<svg/>", {"x": object()})


@pytest.mark.parametrize(
    "inside",
    [
        "<script/>",
        "<foreignObject/>",
        "<g onload='x'/>",
        "<image href='http://a.b/c.png'/>",
        "<use href='other.svg#x'/>",
        "<g style='fill: url(http://a.b)'/>",
        "<g fill='url( \"//a.b\")'/>",
        "<style>@import 'x.css';</style>",
    ],
)
def test_a_drawing_loads_and_runs_nothing(inside):
    good = "<image href='data:image/png;base64,AA'/><g clip-path='url(#a)'/><use href='#a'/>"
    assert Figure("a", "t", f"<svg>{good}</svg>")
    with pytest.raises(ValueError, match="runs or loads something"):
        Figure("a", "t", f"<svg>{good}{inside}</svg>")


def test_other_drawings_are_refused():
    for name, svg, words in (
        ("A b", "<svg/>", "small letters"),
        ("a", "<p/>", "an SVG is needed"),
        ("a", "<", "not an"),
    ):
        with pytest.raises(ValueError, match=words):
            Figure(name, "t", svg)


def test_the_same_numbers_give_the_same_bytes(made):
    again = hand_report.report()
    for one, other in zip(made.sections, again.sections, strict=True):
        assert one.figures == other.figures
    assert made.html() == again.html()
    svg = figures.svg_text(gates_figure([0.1, 2.0, 0.3], [1], "3", "the MLP"), "gates")
    assert svg.startswith("<svg") and "<text" in svg and ">1, rank 1</text>" in svg and "dc:date" not in svg
    ids = [re.findall(r'\sid="([^"]+)"', f.svg) for s in made.sections for f in s.figures]
    every = [i for own in ids for i in own]
    assert len(set(every)) == len(every), "two drawings of one page share an id"
    for f in (f for s in made.sections for f in s.figures):
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', f.svg))
        assert used <= set(re.findall(r'\sid="([^"]+)"', f.svg)), f.name


def test_captions_are_words_and_not_markup(made):
    page = Page(made.html())
    assert not {"img", "iframe", "link rel"} & set(page.tags)
    scripts = [(dict(own), text) for own, text in page.scripts]
    assert [own for own, _ in scripts] == [{"type": "application/json", "id": "dg-data"}, {"type": "module"}]
    assert "alert(1)" in scripts[0][1] and "<" not in scripts[0][1] and "alert(1)" not in scripts[1][1]
    assert page.tags.count("title") == 1 and "alert(1)" in "".join(page.words)
    assert not [v for _, name, v in page.values if name.startswith("on")]
    for tag, name, value in page.values:
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("#", "data:", "report.json")), (tag, value)
        assert "url(http" not in value
    policy = next(v for tag, name, v in page.values if tag == "meta" and "default-src" in v)
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    allowed = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert allowed["default-src"] == "'none'" and allowed["script-src"] == f"'sha256-{digest}'", "this script alone"
    assert set(allowed) == {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}
    whole = replace(made, model="<b>bold</b>", settings={"<i>": "<i>", "list": ["<u>"]})
    assert not {"b", "i", "u"} & set(Page(whole.html()).tags)


def test_each_verdict_leads_to_its_number(made, kept):
    record = json.loads((kept / "report.json").read_text(encoding="utf-8"))
    page = Page(made.html())
    links = [value for tag, name, value in page.values if tag == "a" and name == "href"]
    assert [*record["claims"]] == [anchor(row.key) for row in made.claims] and len(page.rows) == len(made.claims)
    for name, claim in record["claims"].items():
        words = page.rows[f"claims/{name}"]
        assert links.count(f"#claims/{name}") == 1 and links.count(f"report.json#claims/{name}") == 1
        assert claim["status"] in words and claim["text"] in words
        if claim["number"] is not None:
            assert interval(tuple(claim["number"]), signed=claim["section"] in ("3", "4")) in words
    assert (
        "not tested" in page.rows["claims/zero-b-cfg-1-5"] and "lacks no detail" in page.rows["claims/zero-b-cfg-1-5"]
    )
    assert "Of 7 claims, 2 hold, 1 holds at some blocks only, 1 does not hold, 1 is undecided" in "".join(page.words)


def test_a_claim_that_holds_at_some_blocks_only_does_not_look_like_one_that_holds(made):
    row = Row("grows", "2", "They grow.", "at some blocks", (0.18, 0.11, 0.24), "log2 per sigma", "< 0",
              parts={f"block {i}": (0.1 * i, 0.0, 1.0) for i in range(3)})  # fmt: skip
    text = replace(made, claims=[row]).html()
    assert 'class="verdict some"' in text and 'class="mark some"' in text
    assert 'class="verdict holds"' not in text and 'class="mark holds"' not in text
    assert "log2 per sigma, median of 3 blocks" in text
    colours = dict(re.findall(r"\.([a-z]+(?:, \.[a-z]+)*) { color: (var\(--\w+\)); }", text))
    assert colours["undecided, .some"] == "var(--open)" != colours["holds"]


def test_a_long_sentence_gets_a_wide_column_and_many_columns_a_wide_table():
    table = Table("t", [str(i) for i in range(15)], [[*range(14), "a sentence of many words " * 5]])
    text = page_of_report.table_text(table)
    assert '<div class="sheet wide"' in text and '<td class="text long">' in text
    text = page_of_report.table_text(Table("u", ["a"], [["b" * 40]]))
    assert '<div class="sheet"' in text and '<td class="text">' in text


def test_what_answers_holds_the_numbers_that_lie_beside_it(made, kept):
    """Bit for bit, decoded by hand: a bfloat16 is the upper half of a float32."""
    told = json.loads((kept / "report.json").read_text(encoding="utf-8"))["run"]
    arrays = load_file(kept / told["file"])
    assert {name: array["shape"] for name, array in told["arrays"].items()} == {
        "abs_mean": [4, 12, 96], "token_norm": [4, 12, 48], "top_value": [4, 12], "median_abs_mean": [4, 12],
        "hidden": [4, 12, 48, 2], "picture": [48, 64, 3],
    }  # fmt: skip
    data = json.loads(Page(made.html()).scripts[0][1])["run"]
    (run,) = data["runs"].values()

    def numbers(text):
        upper = np.frombuffer(base64.b64decode(text), "<u2").astype(np.uint32) << 16
        return upper.view(np.float32)

    for name in ("abs_mean", "token_norm", "top_value", "median_abs_mean"):
        assert np.array_equal(numbers(run[name]["image"]["values"]), arrays[name].float().flatten().numpy()), name
    for step, block in ((0, 0), (2, 11), (3, 5)):
        values = arrays["hidden"][step, block].float().flatten().numpy()
        assert np.array_equal(numbers(run["hidden"][f"{step},{block}"]), values) and abs(values).max() > 0
    assert data["steps"] == ["0", "9", "18", "27"] and data["sites"][11] == "double.11"
    picture = Image.open(io.BytesIO(base64.b64decode(run["pictures"][0].partition(",")[2])))
    assert np.array_equal(np.asarray(picture), arrays["picture"].numpy())


def test_a_report_without_a_run_has_no_such_figure(made, tmp_path):
    made.save(tmp_path)
    replace(made, run=None).save(tmp_path)
    again = Report.open(tmp_path)
    assert again.run is None and not (tmp_path / "run.safetensors").exists()
    live = [value for _, name, value in Page(again.html()).values if name == "data-live"]
    assert live == ["edge"] and "run.safetensors" not in again.html()
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    del record["run"]  # as older ones are
    (tmp_path / "report.json").write_text(json.dumps(record), encoding="utf-8")
    assert Report.open(tmp_path).html() == again.html()


@pytest.mark.parametrize("steps, width, tokens", [(1, 144, 64), (3, 144, 64), (28, 1536, 4096), (50, 3072, 4096)])
def test_steps_are_kept_while_there_is_room(steps, width, tokens):
    found = kept_run.kept_steps(steps, 24, width, tokens, 3)
    one = 24 * (width + 4 * tokens) * 2
    assert len(found) == min(steps, 8, 6 * 2**20 // (one + 96)) and found == sorted(set(found))
    assert (found[0], found[-1]) == (0, steps - 1) and set(found) <= set(range(steps))
    assert kept_run.kept_steps(20, 60, 6144, 65536, 6) == [10], "one is kept whatever it takes"


def test_each_section_is_filled_or_says_why_not(made):
    page = Page(made.html())
    ids = [value for _, name, value in page.values if name == "id"]
    links = [value for tag, name, value in page.values if tag == "a" and name == "href"]
    assert [i for i in ids if i in KEYS] == list(KEYS) and [x[1:] for x in links if x[1:] in KEYS][-10:] == list(KEYS)
    assert hand_report.WHY_NOT in "".join(page.words) and ids.count("figure-gates") == 0
    assert len([i for i in ids if i.startswith("figure-") and "_" not in i]) >= 7
    page = Page(hand_report.report(gates=True).html())
    drawn = [value for tag, name, value in page.values if tag == "figure" and name == "id"]
    live = [value for tag, name, value in page.values if name == "data-live"]
    assert len(drawn) == 8 and live == ["run", "edge"] and page.tags.count("figure") == 8 + len(live)
    assert Section("facts", "t", tables=[Table("t", ["a"], [])]).tables[0].rows == ()


def test_colours_follow_the_page(made):
    """A drawing keeps its own colours in its file, and takes the page's on the page."""
    dose = made.section("dose").figures[0].svg
    assert "#c0392b" in dose and "var(" not in dose
    themed = figures.themed(dose)
    assert "#c0392b" not in themed and "var(--massive)" in themed and themed in made.html()


def test_strips_are_checked():
    picture = np.zeros((8, 12, 3), np.uint8)
    assert figures.strip("a", "t", [picture] * 5, list("abcde")).svg.count("<image") == 5
    large = figures.strip("a", "t", [np.zeros((300, 200, 3), np.uint8)], ["a"]).svg
    assert "image/webp" in large and "pixelated" not in large
    for pictures, titles, notes in (([], [], ()), ([picture], [], ()), ([picture], ["a"], ["b", "c"])):
        with pytest.raises(ValueError, match="titles"):
            figures.strip("a", "t", pictures, titles, notes)
