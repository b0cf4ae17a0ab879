"""Pictures as PNG bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def picture_png(picture: Any) -> bytes:
    """PNG of a PIL picture or a uint8 array."""
    into = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    image.convert("RGB").save(into, format="png")
    return into.getvalue()
