"""Sphinx's settings: the repository's own pages, its notebooks with their kept outputs, and the API.

The source folder is the repository itself, so that a link in the README or in a notebook is the same link here. What is
no page is left out by `include_patterns`. Every script, style and font is shipped: a page opened from the file system
asks no other machine for anything (`tests/test_docs.py` reads the pages for that).
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

import plotly

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "dg_tools"
author = "The dg_tools authors"
project_copyright = author
release = version = version_of("dg-tools")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "pages"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/api/*.md",
    "docs/evidence/*.md",
    "evidence/rules.md",
    "evidence/results-weak-model/README.md",
    "evidence/results-rivals/README.md",
    "notebooks/*.ipynb",
    "README.md",
    "CONTRIBUTING.md",
    "EVIDENCE.md",
    "CHANGELOG.md",
    "dg_tools/zoo/*/README.md",
    "training/README.md",
]
exclude_patterns = [".*", "build", "demo", "dist", "runs", "tests", "notebooks/.*"]

nb_execution_mode = "off"  # the notebooks' kept outputs are what `make test` compares
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # no widget manager: 08's pictures show the explorers
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"dg_tools {release}"
html_static_path = ["static", str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js")]
html_css_files = ["site.css"]
html_js_files = ["excerpts.js"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
