"""Public names that are imported on first use, so that importing the package stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`: each name of `home` comes from its module below `package` when it is first asked for.

    Args:
        package: the package's `__name__`.
        home: public name -> module that defines it, relative to the package.
    """

    def first_use(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return first_use
