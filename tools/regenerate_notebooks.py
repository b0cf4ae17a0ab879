"""Run every notebook from top to bottom in a fresh kernel and keep the outputs: `make notebooks`.

    python -m tools.regenerate_notebooks 00_start_here

Without names all of them are run.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tools.shrink import shrink_outputs

ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "PLOTLY_RENDERER": "plotly_mimetype",
    "TOKENIZERS_PARALLELISM": "false",
}
QUIET = "import logging; logging.getLogger('torchao').setLevel('ERROR')"  # of its own compiled parts, on import
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def regenerate(path: Path) -> None:
    """Run one notebook in its folder and write it with what came out."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        extra_arguments=[f"--IPKernelApp.exec_lines={QUIET}"],
    )
    client.execute()
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i:02d}"  # stable, so that a rerun changes outputs only
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    shrink_outputs(notebook)
    nbformat.write(notebook, path)


def main() -> None:
    """Run notebooks and keep what comes out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks without .ipynb; all of them if none is named")
    names = parser.parse_args().names
    os.environ.update(ENVIRONMENT)  # a kernel inherits these
    for path in [NOTEBOOKS / f"{name}.ipynb" for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")):
        began = time.perf_counter()
        regenerate(path)
        print(f"{path.name}: {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
