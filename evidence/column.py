"""One column of the evidence by its name: loaded, measured by `dg_tools.report.column`, kept in `evidence/results`.

from evidence.column import judge_samples
rows = judge_samples("emoji-sd3-planted", size="small")      # or "null", or an embedded model
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dg_tools.report import column
from dg_tools.report.rules import SIZES, Size
from dg_tools.report.verdict import Row
from evidence.columns import load

RESULTS = Path(__file__).parent / "results"


def measure(name: str, size: Size, out: Path = RESULTS) -> dict[str, Any]:
    """A whole column: runs what is not kept, writes `column.json` and gives what it holds."""
    return column.measure(load(name), size, out / Path(name).name)


def judge_samples(name: str, size: str = "small", out: Path = RESULTS) -> list[Row]:
    """The rows about samples of one column, from what is kept in `out`, or measured now."""
    file = out / Path(name).name / "column.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else measure(name, SIZES[size], out)
    return [row for row in map(Row.from_json, record["rows"]) if row.section in ("", "3", "4")]
