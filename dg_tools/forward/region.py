"""A region of a picture: which image tokens it holds, and the size of picture that it was made for."""

from __future__ import annotations

from collections.abc import Iterable

Grid = tuple[int, int]  # rows and columns of image tokens


class Region(list[int]):
    """Image tokens of a region, as `dit.tokens` gives them for one size of picture.

    Args:
        tokens: indices, y * columns + x.
        grid: rows and columns of the picture's image tokens.

    Example:
        >>> Region([0, 1], (2, 3)).grid
        (2, 3)
    """

    def __init__(self, tokens: Iterable[int], grid: Grid) -> None:
        super().__init__(tokens)
        self.grid = grid


def check_grid(region: Grid | None, picture: Grid | None) -> None:
    """Raise ValueError for a region of a picture of another size; None is a size that is not known."""
    if region is not None and picture is not None and region != picture:
        raise ValueError(
            f"this region was made for {region[0]} x {region[1]} image tokens (rows x columns), and this call makes a "
            f"picture of {picture[0]} x {picture[1]}: make it with dit.tokens(..., height=, width=) of this call"
        )
