"""Check an installed wheel: what is in it, and that it loads each of its models and samples. `make wheel` runs this.

It runs outside of the checkout, in an environment that holds the wheel.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

SHIPPED = (
    "cli/app.py", "datasets/prompts.py", "report/_measure.py", "report/page.css", "widgets/front/live.js",
    "widgets/front/style.css",
)  # fmt: skip


def check_files(wheel: Path, models: list[str]) -> None:
    """The wheel holds the package, its models and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "dg_tools/py.typed" in names, "py.typed is not in the wheel"
    missing = [name for name in SHIPPED if f"dg_tools/{name}" not in names]
    assert not missing, f"not in the wheel: {missing}"
    for model in models:
        assert any(n.startswith(f"dg_tools/zoo/{model}/transformer/") for n in names), f"{model} is not in the wheel"
    others = {n.split("/")[0] for n in names} - {"dg_tools"}
    assert all(n.endswith(".dist-info") for n in others), f"these folders are not the package's: {others}"


def main() -> None:
    """Check the files of a wheel and run what is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the file that was installed")
    parser.add_argument("models", nargs="+", help="names of the models that it must hold")
    arguments = parser.parse_args()
    check_files(arguments.wheel, arguments.models)

    import dg_tools as dg
    from dg_tools.models.files import embedded
    from dg_tools.threads import wait_passively

    wait_passively()

    assert "site-packages" in str(Path(dg.__file__)), f"imported from {dg.__file__}, not from the wheel"
    assert embedded() == sorted(arguments.models), f"the wheel holds {embedded()}"
    dit = dg.load()
    print(dg.generate(dit, "red apple", seed=0, steps=2), "from", Path(dg.__file__).parent)


if __name__ == "__main__":
    main()
