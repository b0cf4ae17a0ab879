"""How to call a transformer whose inputs differ from the usual ones: they are renamed and reshaped, and back again.

The usual inputs are `hidden_states` (rows, ...) and `timestep` (rows,); the usual output is one tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Inputs:
    """One such convention; `bind` names the inputs, and `NamedForward` hands them to the model's own forward."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def named(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A call's inputs under the usual names; inputs that have them already stay as they are."""
        return inputs

    def native(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs as the model's own forward takes them."""
        return inputs

    def prediction(self, sample: Any, inputs: dict[str, Any] | None = None) -> Any:
        """The output of the forward as one tensor (rows, ...); with `inputs`, only its image tokens."""
        return sample


class ImageLast(Inputs):
    """The transformer returns the text's tokens as well; the pipeline takes the last ones, which are the image's."""

    def native(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs.get("kv_cache") is not None:  # Qwen-Image 2.1
            raise ValueError(
                "use_kv_cache=True, the default of this pipeline, leaves the text out of the blocks after "
                "the first step, where the record expects it: pass use_kv_cache=False"
            )
        return inputs

    def prediction(self, sample: Any, inputs: dict[str, Any] | None = None) -> Any:
        return sample if inputs is None else sample[:, -inputs["hidden_states"].shape[1] :]


class NamedForward:
    """In place of a transformer's forward: takes named inputs and the model's own, and returns one tensor."""

    def __init__(self, inputs: Inputs, forward: Callable[..., Any], bound: Callable[..., dict[str, Any]]) -> None:
        self.inputs = inputs
        self.forward = forward
        self.bound = bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = self.bound(args, kwargs)
        native = self.inputs.native(inputs)
        output = self.forward(**native)
        if not native.get("return_dict", True):
            sample = output[0] if isinstance(output, tuple) else output  # Kandinsky 5 returns it bare
            return (self.inputs.prediction(sample, inputs),)
        output.sample = self.inputs.prediction(output.sample, inputs)
        return output
