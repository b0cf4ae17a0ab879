"""Load a DiT: by the name of an embedded model, from a folder, from the Hub, or from a loaded pipeline."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dg_tools._lazy import quiet_imports
from dg_tools.families import Family
from dg_tools.kinds import kind_of, nearest
from dg_tools.models.adapters import FACTORS, add_factors
from dg_tools.models.devices import check_offload, place, placement
from dg_tools.models.dit import DiT
from dg_tools.models.files import DEFAULT, ZOO, adapter_folder, base_of, card_call, check_folder, source_of
from dg_tools.models.profiles import read_profile

NO_NETWORK = {"ConnectionError", "ConnectError", "ConnectTimeout", "OfflineModeIsEnabled", "LocalEntryNotFoundError"}
LOADING = ("cache_dir", "device_map", "quantization_config", "revision", "token", "variant")  # suggested, no more
ADVICE = {  # logger: what it says that an error here says too, or that nobody need follow
    "transformers.utils.import_utils": "requires torchvision",
    "diffusers.pipelines.pipeline_utils": "Couldn't connect to the Hub",
}


def load(
    model: Any = None,
    *,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
    offload: str = "none",
    family: Family | None = None,
    **kwargs: Any,
) -> DiT:
    """Load a DiT by embedded name, folder or Hub id, or wrap a pipeline that is already loaded.

    Args:
        model: None (the embedded default, `emoji-sd3`), a name of `dg_tools.models.files.embedded()`, the path of a
            diffusers folder, a Hub id such as `stabilityai/stable-diffusion-3.5-medium` (only this may download), or a
            diffusers pipeline. `emoji-sd3-planted` is the positive control of the evidence: the default model with an
            adapter.
        dtype: a torch dtype, or its name; "auto" is float32 on a CPU and bfloat16 on an accelerator. Ignored for a
            loaded pipeline.
        device: where to put the pipeline; None is the accelerator of this machine (cuda, mps, xpu) if there is one, and
            the choice is printed. With None, a loaded pipeline stays where it is, and an embedded model stays on the
            CPU in float32, so that its numbers are those of the tutorials on every machine.
        offload: "model", "sequential" or "group" keep the weights in the CPU's memory and bring one part of the
            pipeline, or one layer, to the accelerator at a time (diffusers' `enable_model_cpu_offload`,
            `enable_sequential_cpu_offload`, `enable_group_offload`).
        family: a record of your own for a transformer class that has none; `dg_tools.families.propose` drafts one.
        **kwargs: passed to `DiffusionPipeline.from_pretrained` (`variant`, `revision`, `cache_dir` ...).

    Raises:
        FileNotFoundError: a path that is not a diffusers folder, or an empty one; lists what there is.
        TypeError: anything else, such as a modular pipeline: pass the guider to that one directly. An argument that
            neither this function nor diffusers knows, or one of `from_pretrained` with a pipeline already loaded.
        ValueError: an unknown dtype, offloading without an accelerator, pickle weights, an unknown transformer class, a
            pipeline without a transformer, or a transformer that differs from its family record.

    Example:
        >>> dit = dg.load()
        >>> dit
        DiT(StableDiffusion3Pipeline, family 'sd3', 12 blocks, width 144)
        >>> dit.size(), dit.grid()
        ((64, 64), (8, 8))
    """
    if isinstance(model, DiT):
        check_unused(kwargs)
        return model
    pipeline, source = load_pipeline(model, dtype=dtype, device=device, offload=offload, **kwargs)
    if source is None:
        return DiT(pipeline, family)
    adapter = adapter_folder(DEFAULT if model is None else str(model))
    call = card_call(source) if isinstance(source, Path) else None
    return DiT(pipeline, family, call=call, profile=read_profile(adapter or source))


def load_pipeline(
    model: Any = None,
    *,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
    offload: str = "none",
    **kwargs: Any,
) -> tuple[Any, Path | str | None]:
    """The diffusers pipeline that `load` reads, with any transformer, and its folder or Hub id.

    Args:
        model, dtype, device, offload, **kwargs: as in `load`.

    Returns:
        The pipeline, and its folder or Hub id; None for a pipeline that is already loaded.

    Raises:
        As `load`, except that the transformer is not checked.
    """
    with quiet_imports():
        from diffusers import DiffusionPipeline

    if isinstance(model, DiffusionPipeline):
        check_unused(kwargs)
        check_offload(offload, device)
        return place(model, device, offload), None
    if type(model).__name__.endswith("ModularPipeline"):
        raise TypeError(
            f"{kind_of(model)} takes a guider itself: pipe.update_components(guider=dg.DetailGuidance(...)); "
            "to look inside, load its components in a classic pipeline"
        )
    if not isinstance(model, str | Path | None):
        raise TypeError(f"{kind_of(model)} is not a model: pass a name, a folder, a Hub id or a diffusers pipeline")
    name = DEFAULT if model is None else str(model)
    adapter = adapter_folder(name)
    source = source_of(base_of(adapter) if adapter else name)
    if isinstance(source, Path):
        check_folder(source)
        kwargs["local_files_only"] = True
    own = isinstance(source, Path) and source.parent == ZOO
    where, dtype = placement(device, dtype, offload, embedded=own)
    if device is None and "device_map" in kwargs:  # the caller places the parts
        where = None
    try:
        with quiet_loading(), nothing_ignored(kwargs):
            pipeline = DiffusionPipeline.from_pretrained(str(source), dtype=dtype, use_safetensors=True, **kwargs)
    except OSError as error:
        why = (
            str(error) if isinstance(source, Path) or not unreachable(error) else "the Hub cannot be reached from here"
        )
        raise FileNotFoundError(
            f"could not load {name!r} ({why}). A Hub id needs network access or a filled cache, and safetensors weights"
        ) from error
    pipeline.set_progress_bar_config(disable=True)  # dg_tools shows its own
    if adapter:
        add_factors(pipeline.transformer, adapter / FACTORS)
        pipeline.register_to_config(_name_or_path=str(adapter))
    return place(pipeline, where, offload), source


def check_unused(given: Collection[str]) -> None:
    """Raise TypeError for arguments of `from_pretrained` beside a model that is already loaded."""
    if given:
        names = ", ".join(f"{name}=" for name in given)
        raise TypeError(
            f"{names} given with a pipeline that is already loaded, which takes device= and offload= only: pass it to "
            "from_pretrained, where the pipeline is read"
        )


@contextmanager
def nothing_ignored(given: Collection[str]) -> Iterator[None]:
    """Inside, an argument that diffusers would ignore is a TypeError; diffusers says so before it reads weights."""

    def refuse(record: logging.LogRecord) -> bool:
        ignored, _, kind = record.getMessage().partition(" are not expected by ")
        for name in given:
            if kind and repr(name) in ignored:
                near = nearest(name, [*inspect.signature(load).parameters, *LOADING])
                meant = f": did you mean {near}=?" if near else ": leave it out"
                raise TypeError(f"dg.load and {kind.split()[0]} have no argument {name}={meant}")
        return True

    source = logging.getLogger("diffusers.pipelines.pipeline_utils")
    source.addFilter(refuse)
    try:
        yield
    finally:
        source.removeFilter(refuse)


def unreachable(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says that the Hub was not reached."""
    while error is not None:
        if any(kind.__name__ in NO_NETWORK for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the libraries' loading bars and the messages in `ADVICE`; the settings are put back."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [lib for lib in (diffusers_logging, transformers_logging) if lib.is_progress_bar_enabled()]
    quiet = lambda record: not any(words in record.getMessage() for words in ADVICE.values())  # noqa: E731
    sources = [logging.getLogger(name) for name in ADVICE]
    for source in sources:
        source.addFilter(quiet)
    for lib in shown:
        lib.disable_progress_bar()
    try:
        yield
    finally:
        for source in sources:
            source.removeFilter(quiet)
        for lib in shown:
            lib.enable_progress_bar()
