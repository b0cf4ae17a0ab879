"""`dg-tools info`: no weights are loaded, and no torch."""

from __future__ import annotations

import typer

from dg_tools.cli.app import command, emit, pairs, table
from dg_tools.cli.options import AsJson


@command
def info(
    model: str = typer.Argument(None, help="embedded name, folder, or Hub id in the cache; the embedded default"),
    as_json: bool = AsJson,
) -> None:
    """What a model is, and the memory that a capture and a run with Detail Guidance will take.

    Read from its configurations; no weight is loaded, nothing is downloaded.

    Examples:
      dg-tools info
      dg-tools info path/to/stable-diffusion-3.5-medium
      dg-tools info black-forest-labs/FLUX.1-dev --json
    """
    from dg_tools.models.facts import facts
    from dg_tools.models.files import embedded
    from dg_tools.models.profiles import profile_words

    known = facts(model)
    if as_json:
        emit({**known.to_json(), "embedded": embedded()})
        return
    lists = " + ".join(f"{n} {label}" for label, n in known.blocks.items())
    missing = [name for name, count in known.parameters.items() if count is None]
    pairs(
        {
            "pipeline": known.pipeline,
            "transformer": known.transformer,
            "family": f"{known.family} (predicts {known.prediction})",
            "blocks": f"{lists}, sites {known.sites[0]} to {known.sites[-1]}",
            "width": f"{known.width} channels",
            "picture": f"{known.pixels[0]} x {known.pixels[1]} pixels (height x width), {known.steps} steps",
            "image tokens": f"{known.grid[0]} x {known.grid[1]}",
            "text tokens": f"at most {known.text_tokens}",
            "profile": profile_words(known.profile) if known.profile else "none",
            "parameters": ", ".join(f"{k} {count(n)}" for k, n in known.parameters.items()),
        },
        title=known.model,
    )
    rows = [
        {
            "precision": f"{dtype} ({'a CPU' if dtype == 'float32' else 'an accelerator'})",
            "weights": size(of["weights"]),
            "capture, beside them": f"about {size(of['capture'])}",
            "DG + CFG, beside them": f"about {size(of['detail_guidance'])}",
        }
        for dtype, of in known.memory.items()
    ]
    table(rows, title="Memory, one picture")
    print(
        f"A capture keeps {size(known.statistics)} of statistics per run, and {size(known.raw)} for each block and "
        f"step in raw=."
    )
    if missing:
        print(f"Weights that are missing: {', '.join(missing)}.")
    print(f"Embedded models: {', '.join(embedded())}.")


def size(bytes_: int | None) -> str:
    """Bytes in words."""
    if bytes_ is None:
        return "not known"
    unit, by = next((u, b) for u, b in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 1)) if bytes_ >= b)
    return f"{bytes_ / max(by, 2**10):.1f} {unit}"


def count(parameters: int | None) -> str:
    """Parameters in words."""
    if parameters is None:
        return "not there"
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.2f} million"
