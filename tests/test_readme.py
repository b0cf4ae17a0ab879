"""The README's code runs as it stands, on the embedded model."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 3 and len(blocks[0].strip().splitlines()) <= 12
    code = "\n".join(blocks).replace("steps=20", "steps=2")  # the same calls, fewer steps
    # from a file: nnsight reads the source of a trace's body
    script = ROOT / "build" / "readme_code.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code, encoding="utf-8")
    exec(compile(code, str(script), "exec"), {"__name__": "readme"})


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in set(re.findall(r"make (demo|test|lab|notebooks|bench|wheel)\b", README)):
        assert re.search(rf"^{command}:", makefile, re.M), command
