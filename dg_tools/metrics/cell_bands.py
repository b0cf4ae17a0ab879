"""Detail by size at equal contrast: bands in cycles per latent cell, for pictures and latents.

A latent cell is one place of the latents: 8 x 8 pixels with most VAEs. A picture's frequency in cycles per cell is that
in cycles per pixel times the pixels of a cell (`cell`). Latents and predictions x0 are their own cells (`cell=1`).
A transformer can draw up to 1/2 cycle per cell; the VAE's decoder makes everything finer. A band in cycles per pixel
would mean something else with each VAE.

The mean (DC) is in no band. Pictures and latents are float tensors (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch

from dg_tools.metrics.bands import Bands, radius, same_shape, spectrum

CELL_BANDS: Bands = {
    "below 1/16": (0.0, 1 / 16),
    "1/16 to 1/8": (1 / 16, 1 / 8),
    "1/8 to 1/4": (1 / 8, 1 / 4),
    "1/4 to 1/2": (1 / 4, 1 / 2),
    "above 1/2": (1 / 2, float("inf")),
}
LOW = (0.0, 1 / 8)  # layout and colours, without the mean
HIGH = (1 / 4, float("inf"))  # open, as LOW is: enlarging a picture can then only lower its amount of detail
NAMED: Bands = {"low": LOW, "mid": (1 / 8, 1 / 4), "high": HIGH}  # of the experiments with reference pictures
ABOVE_MEAN = 1e-9  # cycles per pixel: above the mean's 0, below the lowest frequency of any picture
LEAST = 1e-30  # a power below counts as none


def band_name(band: tuple[float, float], cell: int = 1) -> str:
    """A band in words: in cycles per latent cell, and per pixel where a cell is larger than one.

    Example:
        >>> band_name((1 / 4, 1 / 2), cell=8)
        '1/4 to 1/2 cycle per latent cell (1/32 to 1/16 per pixel)'
    """
    cells = f"{between(*band)} cycle per latent cell"
    return cells if cell == 1 else f"{cells} ({between(*(edge / cell for edge in band))} per pixel)"


def named_bands(cell: int) -> Bands:
    """`NAMED` for the functions of `bands`, which count in cycles per pixel: its masks are those of `cell_masks`.

    `cell`: pixels of a latent cell. The low band begins above 0, so that the mean is in no band.

    Example:
        >>> named_bands(8)["high"]
        (0.03125, inf)
    """
    return {name: (max(low / cell, ABOVE_MEAN), high / cell) for name, (low, high) in NAMED.items()}


def named_words(cell: int | None = None) -> dict[str, str]:
    """The edges of each band of `NAMED`, by its name; per pixel too where the pixels of a cell are known."""
    return {name: band_name(edges, cell or 1) for name, edges in NAMED.items()}


def bands_note(cell: int) -> str:
    """The bands of `NAMED` in one sentence, for the notes of a result."""
    words = "; ".join(f"{name} {edges}" for name, edges in named_words(cell).items())
    return f"bands, all without the mean: {words}; above 1/2 per cell a picture is the VAE decoder's"


def between(low: float, high: float) -> str:
    """Two edges of a band in words: 'below 1/8', '1/8 to 1/4', 'above 1/2'."""
    first, last = (
        str(Fraction(x).limit_denominator(4096)) if x not in (0, float("inf")) else None for x in (low, high)
    )
    if first is None:
        return f"below {last}" if last else "any"
    return f"{first} to {last}" if last else f"above {first}"


def cell_masks(size: Sequence[int], cell: int = 1, bands: Bands = CELL_BANDS) -> dict[str, torch.Tensor]:
    """Boolean masks over the frequencies of `fft2`, one per band, without DC.

    Args:
        size: height and width.
        cell: pixels of a latent cell along an axis; 1 for latents.
        bands: in cycles per latent cell.

    Returns:
        The bands that hold a frequency at this size: 16 x 16 cells have nothing below 1/16 but their mean.

    Raises:
        ValueError: no band holds any.
    """
    height, width = size
    distance = cell * radius(size)
    distance[0, 0] = torch.nan  # the mean, in no band
    masks = {name: (distance >= low) & (distance < high) for name, (low, high) in bands.items()}
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    if not masks:
        raise ValueError(
            f"none of the bands {', '.join(bands)} holds a frequency of {height} x {width} at {cell} pixels per cell"
        )
    return masks


def check_size(height: int, width: int, cell: int) -> None:
    """Raise ValueError for pictures too small for a low and a high band; before any run."""
    masks = cell_masks((height, width), cell, {"any": (0.0, float("inf")), "low": LOW, "high": HIGH})
    if not {"low", "high"} <= masks.keys():
        raise ValueError(
            f"pictures of {height} x {width} are {height // cell} x {width // cell} latent cells: too small for a band "
            f"{band_name(LOW)}; one side of more than {8 * cell} pixels is needed"
        )


def cell_power(x: torch.Tensor, cell: int = 1, bands: Bands = CELL_BANDS) -> dict[str, torch.Tensor]:
    """Mean-square contribution of each band, (N,), in x's unit squared; together they are x's variance by channel.

    `x`, `cell`, `bands`: as in `cell_masks`.
    """
    power, masks = spectrum(x).abs().square(), cell_masks(x.shape[-2:], cell, bands)
    return {name: power[..., mask].sum((1, 2)) / x[0].numel() for name, mask in masks.items()}


def cell_error(
    x: torch.Tensor, reference: torch.Tensor, cell: int = 1, bands: Bands = CELL_BANDS
) -> dict[str, torch.Tensor]:
    """Mean-square difference from a reference of the same shape by band, (N,)."""
    same_shape(x, reference)
    return cell_power(x - reference, cell, bands)


def cell_correlation(
    x: torch.Tensor, reference: torch.Tensor, cell: int = 1, bands: Bands = CELL_BANDS
) -> dict[str, torch.Tensor]:
    """Correlation (coherence) with a reference of the same shape by band, (N,), -1..1; 0 where one has no power."""
    same_shape(x, reference)
    X, Y = spectrum(x), spectrum(reference)
    result = {}
    for name, mask in cell_masks(x.shape[-2:], cell, bands).items():
        a, b = X[..., mask], Y[..., mask]
        norm = (a.abs().square().sum((1, 2)) * b.abs().square().sum((1, 2))).sqrt()
        result[name] = (a * b.conj()).sum((1, 2)).real / norm.clamp_min(LEAST)
    return result


def low_correlation(
    x: torch.Tensor, reference: torch.Tensor, cell: int = 1, band: tuple[float, float] = LOW
) -> torch.Tensor:
    """Correlation of the low band with the reference's, (N,), -1..1: whether layout and colours stay."""
    return cell_correlation(x, reference, cell, {"low": band})["low"]


def fineness(
    x: torch.Tensor, cell: int = 1, low: tuple[float, float] = LOW, high: tuple[float, float] = HIGH
) -> torch.Tensor:
    """log2 of high-band power over low-band power, (N,), in doublings: the amount of detail at equal contrast.

    Multiplying a picture by a number does not change it; enlarging a picture lowers it. It is -inf without any
    high-band power, and NaN for a flat picture. It includes the decoder's texture (above 1/2): `high=(1 / 4, 1 / 2)`
    leaves that out.

    Args:
        x, cell: as in `cell_masks`.
        low, high: bands in cycles per latent cell, without the mean.

    Raises:
        ValueError: a band that holds no frequency at this size.
    """
    power = cell_power(x, cell, {"low": low, "high": high})
    missing = {"low": low, "high": high}.keys() - power.keys()
    if missing:
        raise ValueError(
            f"the {missing.pop()} band holds no frequency of {x.shape[-2]} x {x.shape[-1]}: choose another"
        )
    flat = (x == x[..., :1, :1]).flatten(1).all(1)
    return (power["high"].log2() - power["low"].log2()).masked_fill(flat, torch.nan)


def amount_change(
    x: torch.Tensor,
    reference: torch.Tensor,
    cell: int = 1,
    low: tuple[float, float] = LOW,
    high: tuple[float, float] = HIGH,
) -> torch.Tensor:
    """amt_c, (N,), in doublings: the change of log2(high-band power / low-band power) from the reference to x.

    0: the same amount of detail at equal contrast; +1: twice the high-band power. It does not say whether the detail is
    right.

    Args:
        x, reference: (N, C, H, W), same shape: an edited and a clean picture, or their latents or x0 with `cell=1`.
        cell, low, high: as in `fineness`.

    Example:
        >>> x = torch.randn(1, 3, 128, 96)
        >>> amount_change(2 * x, x, cell=8).abs().max().item() < 1e-6
        True
    """
    same_shape(x, reference)
    return fineness(x, cell, low, high) - fineness(reference, cell, low, high)


def band_changes(
    x: torch.Tensor,
    reference: torch.Tensor,
    cell: int = 1,
    bands: Bands = CELL_BANDS,
    low: tuple[float, float] = LOW,
) -> dict[str, torch.Tensor]:
    """The signed change of each band at equal contrast, (N,), in doublings: which sizes of detail were gained or lost.

    As `amount_change`, band by band: log2(a band's power / low-band power) of x, minus the same of the reference.
    `x`, `reference`, `cell`, `low`: as in `amount_change`; `bands` as in `cell_masks`.
    """
    same_shape(x, reference)
    ours, theirs = (cell_power(y, cell, {**bands, "all of low": low}) for y in (x, reference))
    ratio = {name: ours[name].log2() - theirs[name].log2() for name in ours}
    contrast = ratio.pop("all of low")
    return {name: value - contrast for name, value in ratio.items()}
