"""`dg-tools find`: the massive channels of a stored capture, or of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from dg_tools.cli.app import at_work, command, emit, say, stop, table
from dg_tools.cli.options import AsJson, Device, Dtype, Offload, Seeds, Steps, checked, loaded, warned

if TYPE_CHECKING:  # commands load torch when they are called
    from dg_tools.activations.result import Activations
    from dg_tools.massive import Massive
    from dg_tools.models.dit import DiT

HEADS = {  # of the terminal's tables, as on a report's page; --json has the names of `Massive.to_frame`
    "site": "name of the block",
    "from_block": "first massive at block",
    "to_block": "last massive at block",
    "blocks": "massive at, blocks",
    "ratio": "ratio to the median channel",
    "at_block": "stands out most at block",
    "coverage": "share of tokens with this sign",
    "variation": "std / mean over tokens",
    "energy_share": "share of the stream's energy",
    "stability": "stability: share of runs and steps",
}
SHOWN = ("block", "site", "channel", "ratio", "sign", "coverage", "variation", "energy_share", "stability", "massive")


@command
def find(
    target: str = typer.Argument("", help="store that `capture` wrote, or a model: embedded name, folder, Hub id"),
    rule: str = typer.Option("constant", help="constant, outlier, sun or top"),
    stream: str = typer.Option("image", help="image or text"),
    prompt: list[str] = typer.Option([], "--prompt", "-p", help="of a model: what to capture; may be repeated"),
    seed: list[str] = Seeds,
    steps: int = Steps,
    blocks: bool = typer.Option(False, "--blocks", help="every block too, and channels that are not massive"),
    device: str = Device,
    dtype: str = Dtype,
    offload: str = Offload,
    as_json: bool = AsJson,
) -> None:
    """Massive channels of stored activations, or of a model (which is captured first, on four prompts).

    Stopped with Ctrl-C, the channels of the finished runs are printed.

    Examples:
      dg-tools find acts.zarr
      dg-tools find acts.zarr --blocks
      dg-tools find path/to/model --steps 10
      dg-tools find path/to/model -p "a red apple" -p "an owl" --json
    """
    import dg_tools as dg
    from dg_tools.models.profiles import read_profile

    store = Path(target) if target else None
    if store is not None and (store / ".zgroup").is_file():
        if (device, dtype, offload) != (None, "auto", "none"):
            raise typer.BadParameter(f"--device, --dtype and --offload are for a model; {target} holds activations")
        acts, warnings = dg.open_activations(store), []
        profile = read_profile(acts.data.attrs.get("model") or "unknown")
    else:
        prompts, seeds = checked(prompt, seed)
        dit = model_of(target, device, dtype, offload, as_json)
        profile = dit.profile
        if not prompts:
            from dg_tools.demo import DETECTION

            prompts = list(DETECTION)
        warnings = warned(dit, prompts)
        try:
            with at_work(as_json):
                acts = dg.capture(dit, prompts, seeds=seeds, steps=steps)
        except KeyboardInterrupt as stopped:
            finished: Activations | None = getattr(stopped, "kept", None)
            if finished is None:
                stop("no run was finished, so there is nothing to search")
            print_massive(finished_runs(finished, rule, stream), warnings, as_json, blocks, profile)
            stop("the table shows the finished runs only")
    if not acts.data.attrs.get("finished", True):
        say("warning: these activations come from a run that was stopped; the table shows its finished part")
    print_massive(finished_runs(acts, rule, stream), warnings, as_json, blocks, profile)


def model_of(target: str, device: str | None, dtype: str, offload: str, as_json: bool) -> DiT:
    """The model of this name.

    Raises:
        FileNotFoundError: neither activations nor a model, with what each would be.
    """
    try:
        return loaded(target or None, device, dtype, offload, as_json=as_json)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{target} is neither a folder of activations, as `dg-tools capture` writes it, nor a model: {error}"
        ) from None


def finished_runs(acts: Activations, rule: str, stream: str) -> Massive:
    """`find_massive` on the runs that are there: a stopped capture has NaN in place of the others."""
    import dg_tools as dg

    data = acts.data
    if "mean" in data and not data.attrs.get("finished", True):
        runs = data.stack(done=("prompt", "seed"))
        others = [d for d in runs["mean"].dims if d != "done"]
        there = runs["mean"].notnull().any(others).values
        data = runs.isel(done=there).drop_vars(["done", "prompt", "seed"]).rename(done="prompt")
    return dg.find_massive(data, rule=cast(Any, rule), stream=stream)


def signed(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose sign is + or -, as on a report's page."""
    return {**row, "sign": "+" if row["sign"] > 0 else "-"}


def beside_profile(massive: Massive, profile: Mapping[str, Any] | None) -> str:
    """Whether the channels and the block of the model's profile are among what was found; empty without a profile."""
    from dg_tools.models.profiles import place_words

    if profile is None:
        return ""
    channels, block = profile["channels"], profile["block"]
    there = [c for c in massive.channels if c in channels] if block is None else massive.at(block)
    missing = [c for c in channels if c not in there]
    where = "" if block is None else f" after block {block}"
    said = f"not massive there: {', '.join(map(str, missing))}" if missing else f"massive{where} here too: they agree"
    return f"the model's profile: {place_words(profile)}; {said}"


def print_massive(
    massive: Massive, warnings: list[str], as_json: bool, blocks: bool, profile: Mapping[str, Any] | None
) -> None:
    """Print the massive channels, one line each; with `blocks` also every block where a channel stands out."""
    rows = massive.to_frame().to_dict("records")
    if as_json:
        about = {"channels": massive.channels, "onset": massive.onset, "rule": massive.rule}
        emit({**about, "by_channel": massive.by_channel().to_dict("records"), "rows": rows, "warnings": warnings})
        return
    print(massive)
    if massive.channels:
        title = "Massive channels; ratio and what follows: at the block where the channel stands out most"
        table([signed(row) for row in massive.by_channel().to_dict("records")], title, HEADS)
    if words := beside_profile(massive, profile):
        print(words)
    if blocks and rows:
        title = "Every block and channel that stands out"
        table([signed({name: row[name] for name in SHOWN}) for row in rows], title, HEADS)
    elif rows:
        print(f"--blocks prints every block and channel that stands out, massive or not: {len(rows)} rows.")
