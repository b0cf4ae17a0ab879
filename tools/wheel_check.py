"""Run by `make wheel`, outside the checkout: the installed wheel loads its model and samples."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import dg_tools as dg

inside = zipfile.ZipFile(sys.argv[1]).namelist()
assert "dg_tools/py.typed" in inside, "py.typed is not in the wheel"
for model in ("emoji-sd3", "emoji-flux"):
    assert any(n.startswith(f"dg_tools/zoo/{model}/transformer/") for n in inside), f"{model} is not in the wheel"
outside = {n.split("/")[0] for n in inside} - {"dg_tools"}
assert all(n.endswith(".dist-info") for n in outside), f"not the package's own: {outside}"
assert "site-packages" in str(Path(dg.__file__)), f"imported from {dg.__file__}, not from the wheel"
dit = dg.load()
print(dg.generate(dit, "red apple", seed=0, steps=2), "from", Path(dg.__file__).parent)
