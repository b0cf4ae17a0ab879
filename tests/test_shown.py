"""What an object shows as the last line of a cell: no address in memory, but words."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys

import pytest
import tiny

import dg_tools as dg
from dg_tools.families import FAMILIES
from dg_tools.verification import verify

OTHERS = ("activations", "generation", "guidance", "interventions", "models", "proposal", "verification")
MODULES = ("baselines", "experiments", "families", "metrics", "plots", "report", "sweeps", "widgets")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def named(annotation: str, module: str, classes: dict[str, list[type]]) -> list[type]:
    """Classes of the package that an annotation names: the module's own, else all of that name."""
    own = vars(sys.modules[module])
    words = dict.fromkeys(re.findall(r"\w+", str(annotation)))
    return [c for word in words for c in classes.get(word, []) if own.get(word, c) is c]


def given_back(member, classes):
    """Classes that a function, a method or a property returns, by its annotation."""
    member = getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
    function = inspect.unwrap(member) if callable(member) else None
    if inspect.isfunction(function):
        return named(function.__annotations__.get("return", ""), function.__module__, classes)
    return []


def parts_of(cls, classes):
    """Classes of what an object has, and of what its methods return."""
    names = [name for name in dir(cls) if not name.startswith("_")]
    found = [c for name in names for c in given_back(inspect.getattr_static(cls, name), classes)]
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return found + [c for field in fields for c in named(field.type, cls.__module__, classes)]


def reachable() -> set[type]:
    """Public classes, and all that a reader gets from them and from public functions, step by step."""
    modules = [dg, *(importlib.import_module(f"dg_tools.{name}") for name in OTHERS)]
    modules += [getattr(dg, name) for name in MODULES]
    importlib.import_module("dg_tools.models.tracing")  # of `dit.trace`; loaded on first use
    public = [getattr(module, name) for module in modules for name in module.__all__]
    classes: dict[str, list[type]] = {}
    for module in [module for name, module in sys.modules.items() if name.startswith("dg_tools")]:
        for name, thing in vars(module).items():
            if inspect.isclass(thing) and thing.__module__ == module.__name__:
                classes.setdefault(name, []).append(thing)
    todo = [c for x in public for c in ([x] if inspect.isclass(x) else given_back(x, classes))]
    found: set[type] = set()
    while todo:
        cls = todo.pop()
        if cls not in found and cls.__module__.startswith("dg_tools"):
            found.add(cls)
            todo += parts_of(cls, classes)
    return found


def test_no_public_object_shows_as_an_address():
    found = reachable()
    assert {"Activations", "Run", "Report", "Edited", "Latents", "Verification"} <= {cls.__name__ for cls in found}
    assert not [cls for cls in found if cls.__repr__ is object.__repr__]
    assert not [family.name for family in FAMILIES if ADDRESS.search(repr(family))]


@pytest.fixture(scope="module")
def pipeline():
    return tiny.sd3()


def test_a_guided_run_shows_what_was_done(pipeline):
    guider = dg.DetailGuidance(detail_guidance_scale=0.5, disrupt=dg.Disrupt([3], 1))
    with dg.detail_guidance(pipeline, guider) as run:
        assert repr(run) == "Run(no guided call of the pipeline yet)" and repr(run)[4:-1] in run._repr_html_()
        for count, words in ((1, "1 guided call"), (2, "2 guided calls")):
            pipeline("red apple", num_inference_steps=2, guidance_scale=1.0, output_type="latent", **tiny.SIZE)
            assert (
                repr(run) == f"Run({words} of the pipeline; the last one: {run.report})" and len(run.reports) == count
            )
    push, change = (f"{sum(run.report.push) / 2:.3g}", f"{sum(run.report.change) / 2:.3g}")
    assert repr(run.report) == f"Report(guided 2 of 2 steps, push {push}, change {change})"
    for thing in (run, run.report):
        html = thing._repr_html_()
        assert f"push {push}, change {change}" in html and html.count("<polyline") == 2


def test_a_verification_shows_what_failed(pipeline, monkeypatch):
    from dg_tools.guidance.guided_forward import GuidedForward

    monkeypatch.setattr(GuidedForward, "folded", lambda self, c, d: c)
    found = verify(pipeline, max_sequence_length=8, **tiny.SIZE)
    assert repr(found).endswith(": 2 of 9 checks failed: DG, block 1, DG + CFG)")
    assert "a loop written by hand" in found._repr_html_()
    for check in found.checks:
        sentence = str(check).split(check.name, 1)[1].strip()
        assert sentence[0].isupper() or sentence.startswith("dg.capture"), sentence
        assert sentence.endswith(" allowed).") and f": {check.difference:.2g} (" in sentence
        lines = check.lines(80).splitlines()
        assert len(lines) > 1 and max(map(len, lines)) <= 80 and all(line.startswith(" " * 38) for line in lines[1:])
