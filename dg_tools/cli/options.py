"""The options that several commands share, and how what they hold is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from dg_tools.cli.app import PROFILE, at_work, say

if TYPE_CHECKING:  # a command line is checked before torch is loaded
    from dg_tools.interventions import Disrupt
    from dg_tools.models.dit import DiT


def one_of(*known: str) -> Callable[[str], str]:
    """A callback that takes these values only."""

    def check(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"{value!r} is unknown; there are {', '.join(known)}")
        return value

    return check


Model = typer.Option(None, "--model", "-m", help="embedded name, folder or Hub id; the embedded default if left out")
Steps = typer.Option(None, min=1, help="denoising steps; the pipeline's own default if left out")
Seeds = typer.Option(["0"], "--seed", "-s", help="whole number; may be repeated")
Cfg = typer.Option(1.0, "--cfg", min=1, help="CFG scale s; 1 is off")
DgRows = typer.Option("cond", "--dg-rows", help="uncond: DG in CFG's unconditional pass, without w or a further pass")
Rho = typer.Option(
    None,
    "--rho",
    help="dose: the channels times this; alone in the picture itself, with --dg or --dg-rows uncond in the model that "
    "DG steers away from (there the profile's if left out, and 0, the paper's, with --channel or --block)",
)
Channels = typer.Option([], "--channel", help="channel that DG disrupts; may be repeated; the profile's if left out")
Block = typer.Option(None, help="block that DG disrupts; the profile's if left out")
Auto = typer.Option(False, "--auto", help="have DG's channels, block and dose detected and chosen")
Height = typer.Option(None, help="pixels; the pipeline's own default if left out")
Width = typer.Option(None, help="pixels; the pipeline's own default if left out")
Device = typer.Option(None, "--device", help="where to run, such as cuda; an accelerator where there is one")
Dtype = typer.Option(
    "auto",
    "--dtype",
    callback=one_of("auto", "float32", "bfloat16", "float16"),
    help="precision: auto is bfloat16 on an accelerator and float32 on a CPU; or float32, bfloat16, float16",
)
Offload = typer.Option(
    "none",
    "--offload",
    callback=one_of("none", "model", "sequential", "group"),
    help="keep weights in the CPU's memory; bring one part (model) or one layer (sequential, group) at a time",
)
AsJson = typer.Option(False, "--json", help="one JSON object on stdout instead of a table")


def weight(text: str | float) -> float | None:
    """The w of --dg; None: the profile's.

    Raises:
        typer.BadParameter: no number.
    """
    try:
        return None if text == PROFILE else float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number: --dg W, or --dg alone for the profile's w") from None


NO_PROFILE = (
    "this model has no profile with channels and a block: pass --channel (may be repeated) and --block, with --dg W"
)
Dg = typer.Option(
    0.0, "--dg", parser=weight, metavar="[W]", help="DG weight w; 0 is off; without a number the profile's"
)


def checked(prompts: Sequence[str], seeds: Sequence[str]) -> tuple[list[str], list[int]]:
    """Prompts and seeds as they can be used.

    Raises:
        typer.BadParameter: an empty prompt, or a seed that is not a number.
    """
    from dg_tools.datasets.captions import check_prompt, check_seed

    try:
        return [check_prompt(p) for p in prompts], [check_seed(s) for s in seeds]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def loaded(model: Any, device: str | None, dtype: Any = "auto", offload: str = "none", *, as_json: bool = False) -> DiT:
    """The model of --model on --device, in the precision of --dtype, offloaded as --offload says.

    Raises:
        ValueError: a device that cannot be used, with torch's own words; offloading without an accelerator.
        others: as in `dg_tools.load`.
    """
    import dg_tools
    from dg_tools.models.devices import check_offload

    check_offload(offload, usable(device))
    with at_work(as_json):
        return dg_tools.load(model, device=device, dtype=dtype, offload=offload)


def usable(device: str | None) -> str | None:
    """The device, where it can be used; ValueError where not."""
    from dg_tools.models import devices

    devices.usable(device)
    return device


def warned(dit: DiT, prompts: Sequence[str]) -> list[str]:
    """Print and return warnings about words that the model never saw in training."""
    from dg_tools.datasets.captions import advice

    warnings = [warning for p in prompts if (warning := advice(dit, p))]
    for warning in warnings:
        say(f"warning: {warning}")
    return warnings


def disruption(dit: DiT, channels: list[int], block: int | None, rho: float | None = None) -> Disrupt:
    """The `Disrupt` of --channel, --block and --rho; what is left out is the default profile's.

    With --channel or --block it is the caller's own: without --rho the channels are zeroed, as in the paper.

    Raises:
        ValueError: channels or block are in neither of them.
    """
    from dg_tools.guidance.auto import default_profile
    from dg_tools.interventions import Disrupt
    from dg_tools.models.profiles import profile_words

    profile = default_profile(dit) or {"channels": [], "block": None}
    own = bool(channels) or block is not None
    at = profile["block"] if block is None else block
    if not (channels or profile["channels"]) or at is None:
        raise ValueError(f"{NO_PROFILE}, or --auto to have them detected and chosen")
    if not (channels and block is not None):
        say(f"the profile: {profile_words(profile)}")
    if rho is None and not own:
        return Disrupt.from_profile(profile)
    dose: dict[str, Any] = {} if rho is None else {"mode": "scale", "rho": rho}
    return Disrupt(channels or profile["channels"], at, **dose)
