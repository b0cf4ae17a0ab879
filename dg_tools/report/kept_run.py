"""One sampling run that the page shows at any block, step, channel and token: the numbers that are kept, as page data.

The numbers lie in `run.safetensors` beside the page as bfloat16 (within 0.4 %), bit for bit those of the page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dg_tools.activations import Activations
from dg_tools.report.figures import data_of

FILE = "run.safetensors"
MOST_STEPS = 8
MOST_CHANNELS = 6  # whose value at each token is kept
MOST_BYTES = 6 * 2**20  # bytes of the numbers; a third more as text in the page. At least one step is always kept.
SIDE = 384  # pixels of the picture under the map, at most
AXES = {
    "abs_mean": "step, block, channel",
    "token_norm": "step, block, token",
    "top_value": "step, block",
    "median_abs_mean": "step, block",
    "hidden": "step, block, token, kept channel",
    "picture": "row, column, colour",
}
MEANING = {
    "abs_mean": "mean |x| over image tokens",
    "token_norm": "norm over channels",
    "top_value": "the largest x in size",
    "median_abs_mean": "abs_mean of the median channel",
    "hidden": "x of the kept channels",
    "picture": "the finished picture, 0 to 255",
}


@dataclass(frozen=True)
class KeptRun:
    """One run: the residual stream of the image tokens after each block.

    Attributes:
        about: plain JSON: prompt, seed, sites (of blocks), steps (their numbers in the run), sigmas, grid (rows,
            columns of tokens), massive (channels that are marked), kept_channels, opens_at (indices of step and block,
            numbers of channel and token).
        arrays: see `AXES` and `MEANING`; bfloat16, the picture uint8.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, torch.Tensor]

    def to_json(self) -> dict[str, Any]:
        """What report.json says of it: everything but the arrays, and what these are."""
        arrays = {
            name: {"axes": AXES[name], "shape": list(array.shape), "holds": MEANING[name]}
            for name, array in self.arrays.items()
        }
        return {"file": FILE, **self.about, "arrays": arrays}

    def file(self) -> bytes:
        """The bytes of `run.safetensors`."""
        return save({name: array.contiguous() for name, array in self.arrays.items()})

    @classmethod
    def open(cls, record: Mapping[str, Any], folder: Path) -> KeptRun:
        """A run from report.json's words and the file beside it.

        Raises:
            FileNotFoundError, ValueError: the file is missing or damaged.
        """
        file = folder / record["file"]
        if not file.is_file():
            raise FileNotFoundError(f"{folder} lacks {file.name}, which its report.json names")
        try:
            arrays = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): make the report again") from None
        about = {name: value for name, value in record.items() if name not in ("file", "arrays")}
        return cls(about, {name: arrays[name] for name in record["arrays"]})

    def page_data(self) -> dict[str, Any]:
        """As the script of the page takes it: see `widgets/front/kept_lookup.js`."""
        about = self.about
        steps, blocks = self.arrays["abs_mean"].shape[:2]
        tokens = self.arrays["token_norm"].shape[-1]
        values = {
            name: {"image": {"values": text_of(self.arrays[name]), "size": self.arrays[name][0, 0].numel()}}
            for name in ("abs_mean", "token_norm", "top_value", "median_abs_mean")
        }
        hidden = {f"{s},{b}": text_of(self.arrays["hidden"][s, b]) for s in range(steps) for b in range(blocks)}
        picture = Image.fromarray(self.arrays["picture"].numpy()) if "picture" in self.arrays else None
        rows, columns = about["grid"]
        return {
            "prompts": [about["prompt"]],
            "seeds": [str(about["seed"])],
            "branches": ["cond"],
            "streams": ["image"],
            "sites": about["sites"],
            "steps": [str(step) for step in about["steps"]],
            "sigmas": about["sigmas"],
            "grid": about["grid"],
            "aspect": picture.width / picture.height if picture else columns / rows,
            "channels": self.arrays["abs_mean"].shape[-1],
            "massive": about["massive"],
            "hidden_stream": "image",
            "hidden_tokens": list(range(tokens)),
            "hidden_channels": about["kept_channels"],
            "hidden_whole": False,
            "point": {"prompt": 0, "seed": 0, "branch": 0, "stream": "image", "log": False, **about["opens_at"]},
            "runs": {"0,0,0": {**values, "hidden": hidden, "pictures": [data_of(picture)] if picture else []}},
        }


def kept_steps(steps: int, blocks: int, width: int, tokens: int, channels: int) -> list[int]:
    """Which steps of a run are kept: the first, the last and others between, as many as there is room for.

    Example:
        >>> kept_steps(20, blocks=12, width=144, tokens=64, channels=2)
        [0, 3, 5, 8, 11, 14, 16, 19]
        >>> kept_steps(28, blocks=57, width=3072, tokens=4096, channels=2)
        [0, 14, 27]
    """
    one = 2 * blocks * (width + tokens * (1 + channels) + 2)
    count = max(1, min(steps, MOST_STEPS, MOST_BYTES // one))
    return sorted({round(x) for x in np.linspace(0, steps - 1, count)}) if count > 1 else [steps // 2]


def of(acts: Activations, massive: Sequence[int], kept: Sequence[int], block: int, sigma: float) -> KeptRun:
    """What a page needs of a capture of one run.

    Args:
        acts: with hidden states of the image tokens in all blocks, for some steps and the channels `kept`.
        massive: channels that are marked. kept: those whose values are kept; the first is shown first.
        block, sigma: where the page opens; of the kept steps the nearest.
    """
    data = acts.data.isel(prompt=0, seed=0, branch=0)
    steps = [int(s) for s in data["raw_step"].values]
    rows, columns = acts.grid
    part = data.isel(step=steps).sel(stream="image")
    raw = data["hidden_states"].transpose("raw_step", "raw_site", ...)
    order = [raw[raw.dims[-1]].values.tolist().index(c) for c in kept]
    values = {
        "abs_mean": part["abs_mean"].transpose("step", "site", "channel").values,
        "token_norm": part["token_norm"].transpose("step", "site", "token").values[..., : rows * columns],
        "top_value": part["top_value"].isel(rank=0).transpose("step", "site").values,
        "median_abs_mean": part["median_abs_mean"].transpose("step", "site").values,
        "hidden": raw.values[..., order],
    }
    arrays = {
        name: torch.from_numpy(np.ascontiguousarray(value, np.float32)).bfloat16() for name, value in values.items()
    }
    if "picture" in data:
        picture = Image.fromarray(np.asarray(data["picture"].values)).convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        arrays["picture"] = torch.from_numpy(np.array(picture))
    sigmas = [float(s) for s in part["sigma"].values]
    step = min(range(len(steps)), key=lambda i: abs(sigmas[i] - sigma))
    token = int(arrays["hidden"][step, block, :, 0].float().abs().nan_to_num(0.0).argmax())
    about = {
        "prompt": str(data["prompt"].values),
        "seed": int(data["seed"].values),
        "sites": [str(s) for s in data["site"].values],
        "steps": steps,
        "sigmas": sigmas,
        "grid": [rows, columns],
        "massive": [int(c) for c in massive],
        "kept_channels": [int(c) for c in kept],
        "opens_at": {"step": step, "block": block, "channel": int(kept[0]), "token": token},
    }
    return KeptRun(about, arrays)


def text_of(array: torch.Tensor) -> str:
    """bfloat16 numbers as base64 of their bytes, the low byte first."""
    bits = array.contiguous().view(torch.int16).numpy().astype("<i2")
    return base64.b64encode(bits.tobytes()).decode()
