"""The settings of a sweep: what it varies, on which prompts, and by which objective it chooses.

model: path/to/model                # as in dg.load; may be left out
folder: sweeps/emoji                # where the cells go
blocks: [0, 4, 8]                   # or all
channels: [[55, 58]]                # sets; left out: the model's profile
rhos: [0.5, 1.5]                    # factors on the channels; left out: the profile's, and zero for channels of yours
guidance_scales: [1.0, 3.0]         # s, 1 = no CFG
detail_guidance_scales: [0.25, 1.0] # w
windows: [[0.0, 1.0], [0.2, 0.8]]   # of the disrupted pass, as fractions of the steps
references: 32                      # the model's own; or prompts: ["red apple", {prompt: owl, picture: owl.png}]
seeds: [0, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dg_tools.guidance.baselines.registry import RIVALS
from dg_tools.kinds import kind_of, nearest
from dg_tools.numbers import number

SEARCHED = ("CFG", "control")  # with every DG; and what costs no further pass, where it can run
COMPARED = ("CFG", "control", *RIVALS)  # what `baselines` may name
LISTS: tuple[str, ...] = ("blocks", "channels", "rhos", "guidance_scales", "detail_guidance_scales", "windows")
LISTS += ("prompts", "seeds", "baselines")
SCALES = ("rhos", "guidance_scales", "detail_guidance_scales", "cfg_scales")
WHOLE = ("seeds", "references", "reference_seed", "steps", "height", "width", "batch", "split_seed")


@dataclass(frozen=True)
class Config:
    """A sweep's settings.

    Args:
        folder: where cells, pictures, choice and profile go.
        detail_guidance_scales: the paper's w, each more than 0.
        blocks: indices into `dit.blocks`, or "all".
        channels: one set, or several; None: those of the default profile, with its dose.
        rhos: factors on the channels, such as 1.5; None: the profile's if channels are left out, else 0 (the paper's).
        guidance_scales: the usual CFG scale s under which DG acts; 1 is off.
        windows: (start, stop) of the disrupted pass, as fractions of the steps.
        prompts: strings, or {prompt, picture} with the file of a reference picture.
        references: in place of prompts, this many of the model's own references. `held_out`: from one side of the
            training split only; `reference_seed`: seed of the draw.
        seeds: noise seeds; every prompt with every seed.
        model, device, dtype, offload: as in `dg.load`; not used if `sweep` is given a model. With several processes,
            each has its own device.
        baselines: names of `dg.baselines`, `CFG` or `control`; None: `CFG`, `control`, and `Gain` and `DetailDaemon`
            where they can run. `CFG` tries as many scales as DG has settings. `control` tries DG's grid with another
            disruption, a shift of the same norm on as many other channels. `PAG`, `SLG` and `SEG` act in one block
            each, on DG's grid. `AutoGuidance`, `Blurred`, `Gain` (1 + w / 5) and `DetailDaemon` (amount w) have no
            block, and try more weights instead. `APG` and `CFGZeroStar` try CFG's scales.
        cfg_scales: the scales of `CFG`, exactly as many as DG has settings; `SLGUncond` takes some of them, evenly
            spread, at each block. None: those of `guidance_scales`, and more spread evenly in the logarithm between 1
            and `cfg_most`.
        steps, height, width: the pipeline's defaults where None.
        negative_prompt: what the unconditional prediction is conditional on.
        batch: pictures in a cell, which are made in one call. It changes numbers in their last bits.
        development: share of the prompts on which the choice is made; the others are for the report.
        split_seed: seed of the split.
        objective: `amount` or `detail` (see `dg_tools.sweeps.choose`); None: `amount` if there are reference pictures,
            else `detail`.
        margin: how far the objective's guard may fall; None: the objective's default.
        pictures: keep each cell's pictures as PNG.
        call: more arguments of the pipeline's call.

    Raises:
        ValueError: a list that is empty or holds a value twice, a value out of its range, prompts and references both.
    """

    folder: str
    detail_guidance_scales: list[float]
    blocks: Any = "all"
    channels: Any = None
    rhos: list[float] | None = None
    guidance_scales: list[float] = field(default_factory=lambda: [1.0])
    windows: list[Any] = field(default_factory=lambda: [[0.0, 1.0]])
    prompts: list[Any] | None = None
    references: int | None = None
    held_out: bool | None = None
    reference_seed: int = 0
    seeds: list[int] = field(default_factory=lambda: [0])
    model: str | None = None
    device: str | None = None
    dtype: str = "auto"
    offload: str = "none"
    baselines: list[str] | None = None
    cfg_scales: list[float] | None = None
    cfg_most: float = 8.0
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str = ""
    batch: int = 16
    development: float = 0.5
    split_seed: int = 0
    objective: str | None = None
    margin: float | None = None
    pictures: bool = True
    call: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in LISTS:
            self._check_list(name)
        for name in WHOLE:
            value = getattr(self, name)
            for one in value if isinstance(value, list | tuple) else [value]:
                if one is not None and (isinstance(one, bool) or not isinstance(one, int)):
                    raise ValueError(f"{name} {value!r}: {one!r} is not a whole number")
        for name in SCALES:
            for one in getattr(self, name) or ():
                number(one, name)
        if self.channels is not None and not isinstance(self.channels[0], list | tuple):
            object.__setattr__(self, "channels", [list(self.channels)])
        if any(not len(channels) for channels in self.channels or ()):
            raise ValueError("channels holds an empty set: name at least one channel in each")
        if (self.prompts is None) == (self.references is None):
            raise ValueError("give prompts (a list), or references (how many of the model's own): one of the two")
        if min(self.detail_guidance_scales) <= 0:
            raise ValueError(f"detail_guidance_scales {self.detail_guidance_scales}: w must be more than 0 (0 = off)")
        if min(self.guidance_scales) < 1 or min(self.cfg_scales or [1]) < 1:
            raise ValueError("guidance_scales and cfg_scales: the usual CFG scale s is at least 1 (1 = off)")
        for window in self.windows:
            if len(window) != 2 or not 0 <= window[0] < window[1] <= 1:
                raise ValueError(f"window {window}: [start, stop] as fractions of the steps, 0 <= start < stop <= 1")
        if self.batch < 1 or self.cfg_most <= 1 or not 0 < self.development < 1:
            raise ValueError(
                f"batch={self.batch}, cfg_most={self.cfg_most}, development={self.development}; batch is at "
                "least 1, cfg_most more than 1, and development between 0 and 1"
            )
        for name in self.baselines or ():
            if name not in COMPARED:
                raise ValueError(f"baseline {name!r} is unknown; there are {', '.join(COMPARED)}")

    def _check_list(self, name: str) -> None:
        value = getattr(self, name)
        if value is None or (name == "blocks" and value == "all"):
            return
        if not isinstance(value, list | tuple | range):
            raise ValueError(f"{name} is {value!r}; a list is needed, such as [{value!r}]")
        if not len(value) and name != "baselines":
            raise ValueError(f"{name} is empty: name at least one, or leave the key out for its default")
        if len({repr(x) for x in value}) < len(value):
            raise ValueError(f"{name} {list(value)}: name each once")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as `read_config` takes it."""
        values = {k: list(v) if isinstance(v, range) else v for k, v in asdict(self).items()}
        return {k: v for k, v in values.items() if k != "rhos" or v is not None}


def read_config(source: Any) -> Config:
    """A `Config` from a `Config`, a mapping, or a YAML file.

    Raises:
        FileNotFoundError: no such file.
        TypeError: something else, such as a model.
        ValueError: a file without a mapping, an unknown key (with the nearest known one), a missing key, or what
            `Config` refuses.
    """
    if isinstance(source, Config):
        return source
    values, name = source, "the settings"
    if isinstance(source, str | Path):
        values, name = read_yaml(Path(source)), str(source)
    if not isinstance(values, Mapping):
        kind = TypeError if values is source else ValueError
        raise kind(f"{name}: a mapping of keys to values is needed, and this is {kind_of(values)}")
    known = [f.name for f in fields(Config)]
    for key in values:
        if key not in known:
            near = nearest(str(key), known)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{name}: unknown key {key!r}; {hint}")
    missing = [key for key in ("folder", "detail_guidance_scales") if key not in values]
    if missing:
        raise ValueError(f"{name}: {', '.join(missing)} must be given")
    try:
        return Config(**values)
    except TypeError as error:
        raise ValueError(f"{name}: a value of the wrong kind ({error})") from None


def read_yaml(file: Path) -> Any:
    """What a YAML file holds.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not YAML.
    """
    import yaml

    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: pass a YAML file with the settings of a sweep")
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        words = str(error).replace('in "<unicode string>", ', "at ")  # yaml's name of what has no file
        raise ValueError(f"{file} is not YAML: {' '.join(words.split())}") from None
