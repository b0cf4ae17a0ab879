"""One progress bar for all long work."""

from __future__ import annotations

import os
from typing import Any

from tqdm.auto import tqdm


def progress_bar(shown: bool, *args: Any, **kwargs: Any) -> Any:
    """A tqdm bar. Also honours TQDM_DISABLE in notebooks, where tqdm.auto ignores it."""
    disable = not shown or os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(*args, **kwargs, disable=disable)
