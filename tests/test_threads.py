"""Commands and tools set OMP_WAIT_POLICY=PASSIVE before torch is imported, unless it is set; the library does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dg_tools import threads

ROOT = Path(__file__).parents[1]
TOOLS = ("tools", "benchmarks", "evidence", "training", "training.scenes")
WATCH = """
import importlib, json, os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise SystemExit(os.environ.get("OMP_WAIT_POLICY"))

sys.meta_path.insert(0, Watch())
own = os.environ.get("OMP_WAIT_POLICY")

def when_torch_is_imported(run):
    os.environ.pop("OMP_WAIT_POLICY", None) if own is None else os.environ.update(OMP_WAIT_POLICY=own)
    for name in [n for n in sys.modules if n.split(".")[0] in ("dg_tools", *TOOLS)]:
        del sys.modules[name]
    try:
        run()
    except SystemExit as end:
        return end.code
    return "torch is not imported"
"""


def watched(code: str, policy: str | None):
    """What a fresh process prints, as JSON."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    code = f"TOOLS = {TOOLS}\n{WATCH}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_commands(policy):
    """The console script and the module; a command that loads a model is what imports torch."""
    code = """
def script():
    from dg_tools.cli import main
    main()

sys.argv = ["dg-tools", "generate", "owl", "-m", "emoji-sd3"]
module = lambda: runpy.run_module("dg_tools.cli", run_name="__main__")
print(json.dumps([when_torch_is_imported(script), when_torch_is_imported(module)]))
"""
    assert watched(code, policy) == 2 * [policy or "PASSIVE"]


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_tools(policy):
    files = [file for name in TOOLS for file in (ROOT / name.replace(".", "/")).glob("*.py")]
    names = [str(f.relative_to(ROOT).with_suffix("")).replace("/", ".") for f in files if "__main__" in f.read_text()]
    assert len(names) > 20
    code = f"""
found = {{n: when_torch_is_imported(lambda: importlib.import_module(n)) for n in {names}}}
print(json.dumps(found))
"""
    found = watched(code, policy)
    reached = {name: value for name, value in found.items() if value != "torch is not imported"}
    assert set(reached.values()) == {policy or "PASSIVE"} and len(reached) > 10, found


def test_the_library_leaves_the_environment_as_it_is():
    code = """
def use():
    import dg_tools, dg_tools.cli
    dg_tools.load

print(json.dumps(when_torch_is_imported(use)))
"""
    assert watched(code, None) is None


@pytest.mark.parametrize("most, inside", [(100, 1), (10, 3)])
def test_a_small_model_computes_on_one_thread_and_the_number_is_put_back(monkeypatch, most, inside):
    monkeypatch.setattr(threads, "SMALL", most)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), threads.one_thread_if_small(torch.nn.Linear(5, 4)):
            assert torch.get_num_threads() == inside
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
