"""Run every notebook from top to bottom in a fresh kernel and keep the outputs: `make notebooks`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "PLOTLY_RENDERER": "plotly_mimetype",
    "TOKENIZERS_PARALLELISM": "false",
}
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def main() -> None:
    os.environ.update(ENVIRONMENT)  # before anything starts a kernel: it inherits these
    import nbformat
    from nbclient import NotebookClient

    wanted = [NOTEBOOKS / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in wanted:
        notebook = nbformat.read(path, as_version=4)
        began = time.perf_counter()
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", store_widget_state=False, record_timing=False,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )  # fmt: skip
        client.execute()
        for i, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{i:02d}"  # stable, so that a rerun changes outputs only
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
