"""Activation patching: channels take their values from another prompt's run, to test whether they carry the prompt.

A `Donor` holds one block's hidden states at the noise levels of one run: a sampling run (`Disrupt.transport`), or one
forward of another prompt at the same z_t (`dg_tools.onestep.donor`). All channels are kept, so that the control, which
patches as many other channels from the same run, needs no second run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from dg_tools.families import Family, bind
from dg_tools.forward.call import Call
from dg_tools.kinds import counted

NEAR = 1e-4  # noise levels that are the same one; schedules are far coarser


class Donor:
    """Hidden states of one block in one run, to insert into another run.

    Args:
        prompt: of the run.
        block, stream: where they were read, at the block's output.
        sigmas: noise levels of the run.
        values: (sigmas, rows, tokens, channels); one row serves every row of the receiver.
        seed: of a sampling run.
        file: where they are saved; set by `save` and `open`.

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(
        self,
        prompt: str,
        block: int,
        stream: Literal["image", "text"],
        sigmas: Sequence[float],
        values: torch.Tensor,
        seed: int | None = None,
        file: str | None = None,
    ) -> None:
        if values.ndim != 4 or len(values) != len(sigmas) or not len(sigmas):
            raise ValueError(
                f"values {tuple(values.shape)} for {counted(len(sigmas), 'noise level')}; the shape (sigmas, rows, "
                "tokens, channels) is needed"
            )
        self.prompt = prompt
        self.block = block
        self.stream = stream
        self.sigmas = tuple(float(s) for s in sigmas)
        self.values = values.detach().cpu()
        self.seed = seed
        self.file = file

    def __repr__(self) -> str:
        return f"{self.prompt!r}" + ("" if self.seed is None else f" (seed {self.seed})")

    @cached_property
    def digest(self) -> str:
        """Hash of the values and of where they belong."""
        digest = hashlib.sha256(json.dumps([self.prompt, self.block, self.stream, self.sigmas]).encode())
        digest.update(self.values.float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Donor) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def at(self, sigma: float) -> torch.Tensor:
        """Values (rows, tokens, channels) at a noise level.

        Raises:
            RuntimeError: the donor's run did not pass this noise level.
        """
        distance = [abs(s - sigma) for s in self.sigmas]
        nearest = distance.index(min(distance))
        if distance[nearest] > NEAR:
            raise RuntimeError(
                f"the donor {self!r} has no values at sigma {sigma:.4f}; it has {len(self.sigmas)} from "
                f"{max(self.sigmas):.4f} to {min(self.sigmas):.4f}: use the same steps and size in both runs"
            )
        return self.values[nearest]

    def give(self, part: torch.Tensor, channels: Sequence[int], tokens: Sequence[int] | None, sigma: float) -> None:
        """Write the values into `part` (rows, tokens, channels), in place; `part` holds only the tokens `tokens`."""
        values = self.at(sigma)
        values = values if tokens is None else values[:, list(tokens)]
        if values.shape[0] not in (1, part.shape[0]) or values.shape[1:] != part.shape[1:]:
            raise RuntimeError(
                f"the donor {self!r} has {tuple(values.shape)} (rows, tokens, channels), this run "
                f"{tuple(part.shape)}: use the same model and size, and one row or the same number of rows"
            )
        part[..., list(channels)] = values[..., list(channels)].to(part)

    # -- on disk ------------------------------------------------------------------------------------------------------

    def save(self, file: str | Path) -> None:
        """Write a safetensors file; afterwards an edit with this donor can be saved as JSON."""
        from safetensors.torch import save_file

        about = {"prompt": self.prompt, "block": self.block, "stream": self.stream, "seed": self.seed}
        text = json.dumps({**about, "sigmas": self.sigmas})
        save_file({"values": self.values.contiguous()}, str(file), metadata={"donor": text})
        self.file = str(file)

    @classmethod
    def open(cls, file: str | Path) -> Donor:
        """A donor from `save`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that `save` did not write.
        """
        from safetensors import safe_open

        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} does not exist: pass the file that Donor.save wrote")
        with safe_open(str(file), "pt") as opened:
            about = (opened.metadata() or {}).get("donor")
            if about is None:
                raise ValueError(f"{file} holds no donor's values: pass the file that Donor.save wrote")
            return cls(**json.loads(about), values=opened.get_tensor("values"), file=str(file))

    def to_json(self) -> dict[str, Any]:
        """The donor's settings and its file as plain JSON; the values are in the file."""
        return {"prompt": self.prompt, "seed": self.seed, "file": self.file, "digest": self.digest}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Donor:
        """A donor from `to_json`, read from its file.

        Raises:
            ValueError: the values were never saved, or the file now holds others.
        """
        if settings.get("file") is None:
            raise ValueError(
                f"the donor {settings.get('prompt')!r} was not saved before it was written as JSON: its values travel "
                "as a file, so call donor.save('values.safetensors') first"
            )
        donor = cls.open(settings["file"])
        if settings.get("digest") not in (None, donor.digest):
            raise ValueError(f"{settings['file']} holds other values than this edit was written with")
        return donor


class Reading:
    """The values read so far in a donor's run; `donor` makes a `Donor` from them."""

    def __init__(self, block: int, stream: Literal["image", "text"]) -> None:
        self.block = block
        self.stream = stream
        self.values: dict[float, torch.Tensor] = {}

    def donor(self, prompt: str, seed: int | None = None) -> Donor:
        """The values read, in the order of the run.

        Raises:
            RuntimeError: no conditional forward was seen.
        """
        if not self.values:
            raise RuntimeError(
                f"no values of block {self.block}, {self.stream} stream were read: the run has no conditional pass"
            )
        return Donor(prompt, self.block, self.stream, [*self.values], torch.stack([*self.values.values()]), seed)


@contextmanager
def reading(
    transformer: torch.nn.Module,
    family: Family,
    block: int,
    read: Call | Callable[[dict[str, Any]], Call],
    stream: Literal["image", "text"] = "image",
) -> Iterator[Reading]:
    """Keep the conditional rows of a block's output, by noise level, of every forward inside.

    Args:
        transformer, family, block, stream: where.
        read: the `Call` of every forward inside, or a function that returns it from the transformer's inputs.

    Raises:
        RuntimeError: the block has no output in this stream.
    """
    result = Reading(block, stream)
    _, record, module = list(family.blocks(transformer))[block]
    now: list[Call | None] = [None]

    def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs = bind(module, args, kwargs)
        call = read if isinstance(read, Call) else read(inputs)
        now[0] = replace(call, image_tokens=family.image_tokens(transformer, inputs["hidden_states"]))

    def after(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        call = now[0]
        hidden = record.get(output, stream, call.image_tokens if call else None)
        if hidden is None:
            raise RuntimeError(f"block {block} has no {stream} output")
        if call is not None and call.branch in ("both", "cond"):
            result.values[call.sigma] = hidden[call.cond].detach().cpu().clone()

    handles = [
        module.register_forward_hook(after),
        transformer.register_forward_pre_hook(before, with_kwargs=True),
    ]
    try:
        yield result
    finally:
        for handle in handles:
            handle.remove()
