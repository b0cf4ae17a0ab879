"""Plain English: patterns that readers stumble over are counted, and none is allowed."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
A_KIND = r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b)"  # "there is no" and "is no longer" are English
EACH = r"row|picture|prompt|token|patch|forward|step|call|block|model|notebook|run|side|move|caption|sample|seed"
COUNTED = r"pictures|forwards|rows|calls|passes|cells|vectors?|numbers?|seconds|minutes?|times|statistics|captions|one"
PATTERNS = {
    "X is no Y: write X is not a Y": A_KIND,
    "asked for: write requested, or given": r"\basked for\b",
    "that there are not": r"\bthat there are not\b",
    "a row a, a picture a: write per": rf"\b(?:{COUNTED}) an? (?:image )?(?:{EACH})\b(?! (?:is|has|makes|was|in)\b)",
    "without a word": r"\bwithout a word\b",
    "of one's own": r"\bone's own\b",
    "so many: write how many, or this many": r"\bso many\b",
    "has its say": r"\bha(?:s|ve) (?:its|their) say\b",
    "stands for: write replaces, or means": r"\bstands? for\b",
    "what it is about": r"\bwhat it is about\b",
    "it is said": r"\bit is said\b",
    "the made, the found: a participle as a noun": r"\bthe (?:made|found|asked|given|kept) (?:one|ones|of|is|are)\b",
    "its business: say who does it": r"(?:'s|\bits|\bown) business\b",
    "which is none, that is none": r"\b(?:which|that|it|one|them) (?:is|are) (?-i:none)\b(?! of )",
    "second thread of thought, flatters itself: an aphorism": r"\bthread of thought\b|\bflatters itself\b",
    "none twice: write each once": r"\bnone twice\b",
    "something else than: write anything but, or say what is wrong": r"\bsomething else than\b",
    "in the place of: write in place of, or replaces": r"\bin the place of\b",
    "but for: write except": r"\bbut for\b",
    "of one name, cannot be had: write with the same name, is not possible": r"\bof one name\b|\bbe had\b",
}
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "EVIDENCE.md", "docs", "dg_tools/zoo", "training")


def of_page(text: str) -> str:
    """A page without its code."""
    return re.sub(r"```.*?```|`[^`]*`", " ", text, flags=re.S)


def of_module(text: str) -> str:
    """What a module says: docstrings, and the words of its errors; pieces of one sentence joined."""
    said = []
    tree = ast.parse(text)
    inside = {v for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said.append("".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside and " " in node.value
        ):
            said.append(node.value)
    return "\n\n".join(said)


def of_notebook(text: str) -> str:
    """The prose of a notebook."""
    cells = json.loads(text)["cells"]
    return of_page("\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"))


@cache
def sources() -> dict[str, str]:
    """Name -> what it says."""
    files = [f for page in PAGES for f in ([ROOT / page] if (ROOT / page).is_file() else (ROOT / page).rglob("*.md"))]
    words = {str(f.relative_to(ROOT)): of_page(f.read_text(encoding="utf-8")) for f in files}
    for f in (ROOT / "dg_tools").rglob("*.py"):
        words[str(f.relative_to(ROOT))] = of_module(f.read_text(encoding="utf-8"))
    for f in (ROOT / "notebooks").glob("*.ipynb"):
        words[str(f.relative_to(ROOT))] = of_notebook(f.read_text(encoding="utf-8"))
    return words


def hits(pattern: str, text: str) -> list[str]:
    """Where a pattern is, with what stands around it; lines of one paragraph are joined."""
    joined = re.sub(r"[ \t]*\n[ \t]*(?!\n)", " ", text)
    return [joined[max(0, m.start() - 40) : m.end() + 40].strip() for m in re.finditer(pattern, joined, re.IGNORECASE)]


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_is_left(name):
    every = sources()
    assert len(every) > 250 and {"README.md", "docs/index.md", "notebooks/00_start_here.ipynb"} <= set(every)
    found = [f"{file}: {hit}" for file, text in every.items() for hit in hits(PATTERNS[name], text)]
    assert not found, f"{name}\n" + "\n".join(found)


@pytest.mark.parametrize(
    "name, wrong, right",
    list(zip(
        PATTERNS,
        [
            "{} is no JSON", "block 9 asked for", "tokens that there are not", "two calls a step",
            "skips without a word", "a noise of one's own", "so many are tried", "it has its say",
            "a copy stands for it",
            "what it is about", "It is said that", "the found one", "that is torch's business",
            "a name that is none", "a second thread of thought", "blocks=[1, 1]: at least one, none twice",
            "something else than a number", "a loop in the place of a call", "all but for the last", "it cannot be had",
        ],
        [
            "there is no JSON, it is no longer", "block 9 requested", "there are not", "two calls per step, one step",
            "with a word", "your own noise", "how many", "it says", "a copy stands still", "what it says",
            "it says that", "the one that was found", "torch does that", "there is none",
            "a second thread", "name at least one, and each once",
            "anything but a number", "in place of a call", "all except the last", "it is not possible",
        ],
        strict=True,
    )),
)  # fmt: skip
def test_a_pattern_is_seen_and_good_english_is_not(name, wrong, right):
    assert hits(PATTERNS[name], f"First line,\n{wrong}.") and not hits(PATTERNS[name], f"First line,\n{right}.")
    module = f'"""{wrong}."""\nraise ValueError(f"{wrong.replace("{}", "{x}")} " "and more")\n'
    assert len(hits(PATTERNS[name], of_module(module))) == 2
