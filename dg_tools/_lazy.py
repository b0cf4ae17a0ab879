"""Public names that are imported on first use, so that importing the package stays light."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dg_tools.kinds import nearest

NOISE = {  # logger: beginning of what it says when diffusers imports torchao, where the reader does not use torchao
    "torchao": ("Failed to load", "Skipping import of cpp extensions"),
    "torch.utils._pytree": ("<enum ",),
    "diffusers.quantizers.torchao.torchao_quantizer": ("Unable to import `torchao`",),
}
LAB = ("anywidget", "ipywidgets", "plotly", "traitlets", "IPython")  # of the extra `lab`, which the core does without


def on_first_use(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`: each name of `home` comes from its module below `package` on first use.

    Args:
        package: the package's `__name__`.
        home: public name -> module that defines it, relative to the package; `.proposal` is beside the package.

    A name that needs a package of the extra `lab` raises ImportError with the line that installs it.
    """

    def first_use(name: str) -> Any:
        if name not in home:
            near = nearest(name, home)
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}" + (f"; did you mean {near}?" if near else "")
            )
        try:
            with quiet_imports():
                return getattr(importlib.import_module(f".{home[name]}", package), name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in LAB:
                raise
            raise ImportError(f"{package}.{name} needs {error.name}: pip install 'dg-tools[lab]'") from error

    return first_use


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence torchao's messages while diffusers imports it; the settings are put back."""
    filters = []
    for name, beginnings in NOISE.items():
        quiet = lambda record, known=beginnings: not record.getMessage().startswith(known)  # noqa: E731
        filters.append((logging.getLogger(name), quiet))
        filters[-1][0].addFilter(quiet)
    try:
        yield
    finally:
        for source, quiet in filters:
            source.removeFilter(quiet)
