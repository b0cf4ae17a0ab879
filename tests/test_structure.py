"""The layout: where a module may import from, no circles, and files named for what they define."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dg_tools"

# A module imports from its own row and from rows above. A dotted name holds for the modules below it that have no row
# of their own.
LAYERS = [
    ["palette"],
    ["cards", "plots"],
    ["kinds", "_lazy", "_as_list", "numbers", "paths", "progress", "threads", "metrics", "massive", "families"],
    ["forward"],
    ["models.files", "models.profiles"],
    ["models.facts"],
    ["models"],
    ["datasets"],
    ["interventions"],
    ["onestep"],
    ["guidance.settings", "guidance.matching"],
    ["guidance.base", "guidance.report", "guidance.cfg", "guidance.auto", "guidance.from_profile"],
    ["guidance.run"],
    ["guidance.modular"],
    ["guidance.detail", "guidance.knob"],
    ["guidance.baselines"],
    ["guidance.passes"],
    ["guidance.guided_forward"],
    ["guidance.classic"],
    ["generation.sampling", "generation.heads"],
    ["generation._generate"],
    ["generation.recipes", "generation._compare", "activations"],
    ["experiments", "verification"],
    ["proposal"],
    ["sweeps"],
    ["widgets.front"],
    ["report"],
    ["widgets"],
    ["demo"],
    ["cli"],
]
RANK = {name: i for i, row in enumerate(LAYERS) for name in row}


def dotted(path: Path) -> str:
    """A file's module, without the package's own name; the package itself is the empty string."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {dotted(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of dg_tools that a module imports anywhere in it, for type checking too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("dg_tools.") for a in node.names if a.name.startswith("dg_tools.")}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dg_tools":
            source = (node.module or "").removeprefix("dg_tools").lstrip(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                found.add(inner if inner in modules() else source)
    return frozenset(found - {module, ""})


def rank(module: str) -> int | None:
    """The row of a module: its own, or that of the nearest name above it."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((RANK[name] for name in names if name in RANK), None)


def is_package(module: str) -> bool:
    return modules()[module].name == "__init__.py"


def test_every_module_has_its_row():
    missing = [m for m in modules() if m and rank(m) is None and not is_package(m)]
    assert not missing, f"these modules need a place in LAYERS: {missing}"
    unknown = [name for name in RANK if name not in modules()]
    assert not unknown, f"LAYERS names what is not there: {unknown}"


def test_imports_point_one_way():
    wrong = []
    for module in modules():
        mine = rank(module)
        if not module or mine is None or is_package(module):  # a package's names come from anywhere below it
            continue
        wrong += [f"{module} imports {o}" for o in imports(module) if (theirs := rank(o)) is None or theirs > mine]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle():
    left = {m: set(imports(m)) for m in modules() if m}
    while True:  # take away what imports nothing that is left, and what nothing that is left imports
        wanted = set().union(*left.values()) if left else set()
        free = [m for m, others in left.items() if not others & set(left) or m not in wanted]
        if not free:
            break
        for module in free:
            del left[module]
    assert not left, {m: sorted(others & set(left)) for m, others in left.items()}


def test_plots_take_arrays_and_results():
    for module in modules():
        if module.startswith("plots"):
            others = {o for o in imports(module) if not o.startswith("plots")}
            assert others <= {"palette"}, f"{module} knows more than arrays and colours"


def defined(module: str) -> set[str]:
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def test_a_file_with_an_underscore_defines_the_function_of_its_name():
    for module in modules():
        name = module.rpartition(".")[2]
        if name.startswith("_") and module not in ("_lazy", "cli.__main__"):
            assert name[1:] in defined(module), f"{module} defines {sorted(defined(module))}"


def test_experiments_are_files_functions_figures_and_tests():
    experiments = [m.rpartition("._")[2] for m in modules() if m.startswith("experiments._")]
    assert len(experiments) >= 9
    for name in experiments:
        assert f"plots.{name}" in modules(), f"the figure of {name} is looked for in plots/{name}.py"
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), f"the test of {name} is looked for in tests/"


def test_files_can_be_read_in_one_sitting():
    tables = {"families"}
    long = {
        m: n
        for m, path in modules().items()
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300 and m.split(".")[0] not in tables
    }
    assert not long, long
