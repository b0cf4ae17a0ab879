"""Where does a DiT keep its blocks, its image tokens and its AdaLN gates?

Each family has one declarative record in a file of its own, and no other code tests for a class name: everything that
reads or changes a transformer uses its record. The facts come from diffusers 0.42; `dg_tools.models` checks them on
load. To add a family, add a file that defines `FAMILY`; no other file changes.

A family of your own: write a `Family` and pass it to `dg_tools.load(..., family=...)`. `propose(pipeline)` drafts one,
from forwards of the loaded model.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dg_tools._lazy import on_first_use
from dg_tools.families.block_list import INPUTS, BlockList, Stream, bind
from dg_tools.families.flux import FAMILY as FLUX
from dg_tools.families.records import Family, Rows
from dg_tools.families.sd3 import FAMILY as SD3

if TYPE_CHECKING:  # a record is read without torch
    import torch

__all__ = ["FAMILIES", "FLUX", "SD3", "BlockList", "Family", "Rows", "Stream", "bind", "family_named", "family_of"]


def found() -> tuple[Family, ...]:
    """The records of this folder: SD3 and FLUX.1 first, then by file name."""
    modules = (import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    others = [m.FAMILY for m in modules if hasattr(m, "FAMILY")]
    return (SD3, FLUX, *(f for f in others if f not in (SD3, FLUX)))


FAMILIES = found()
__getattr__ = on_first_use(__name__, {"propose": ".proposal"})  # it runs models, which nothing else here does
INPUTS |= {family.transformer: family.inputs for family in FAMILIES if family.inputs is not None}


def family_of(transformer: torch.nn.Module | Any, pipeline: Any = None) -> Family:
    """The record of a transformer, by its class.

    Args:
        transformer: the model.
        pipeline: the pipeline that it belongs to, where that is known; a record may be written for some pipelines only.

    Raises:
        ValueError: the class has no record (the message names the known classes and says how to write a record), or the
            record does not cover the pipeline.
    """
    return family_named(type(transformer).__name__, None if pipeline is None else type(pipeline).__name__)


def family_named(name: str, pipeline: str | None = None) -> Family:
    """The same, by the names of the classes; several records may share a class, for different pipelines."""
    same = [family for family in FAMILIES if family.transformer == name]
    for family in same:
        if pipeline is None or not family.pipelines or pipeline in family.pipelines:
            return family
    if same:
        names = " and ".join(repr(family.name) for family in same)
        pipelines = " and ".join(known for family in same for known in family.pipelines)
        raise ValueError(
            f"family {names} is written for {pipelines}; this is a {pipeline}, which calls the same transformer in "
            "another way"
        )
    known = ", ".join(f"{f.transformer} ({f.name})" for f in FAMILIES)
    raise ValueError(
        f"no family record for {name}; there are {known}. For another DiT pass family=dg_tools.families.Family(...), "
        "which names the block lists in execution order, where a block returns its image tokens, its AdaLN module and "
        "gates, the CFG row layout and the timestep scale. dg_tools.families.propose(pipeline) drafts one."
    )
