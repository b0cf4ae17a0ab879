"""What enters an attention product, and the weights of its softmax, a few queries at a time.

Query, key and value are caught on their way into torch's `scaled_dot_product_attention`: after the projections, their
norms and the rotary positions, with text and image already joined. diffusers' own processors and its default backends
end there, so the same code serves SD3's joint attention, SD3.5-medium's second attention of the image alone, FLUX.1's
double and single blocks and PixArt's two attentions. torch does not return the weights, so they are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from dg_tools.forward.replaced import replaced

NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
AT_ONCE = 2**22  # weights at once on a CPU: 16 MiB in float32
AT_ONCE_ELSEWHERE = 2**26
Inputs = dict[str, Any]  # of one product, by name: query, key and value are (rows, heads, tokens, channels of a head)


# replaces torch's product: gets it, its inputs by name, and the index of the attention
Computed = Callable[[Callable[..., torch.Tensor], Inputs, int], torch.Tensor]


class Caught(TorchFunctionMode):
    """While active, `product` gets torch's product and its named inputs, and returns what is used instead.

    Attributes:
        block: the block of the attention; passed to `product`.
        count: how many products were seen.
    """

    def __init__(self, product: Computed) -> None:
        super().__init__()
        self.product = product
        self.block = -1
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.count += 1
        return self.product(func, {**dict(zip(NAMES, args, strict=False)), **kwargs}, self.block)


@contextmanager
def on_products(modules: Sequence[torch.nn.Module], change: Callable[[int, Inputs], Inputs]) -> Iterator[None]:
    """Inside, the product of `modules[i]` uses what `change(i, inputs)` returns; the forwards are put back afterwards.

    Args:
        modules: attention modules, each of which computes one product.
        change: gets the module's index and the product's inputs, and returns the inputs that are used.

    Raises:
        RuntimeError: during a forward, where a module calls torch's product never, or several times.
    """

    def within(index: int, forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            caught = Caught(lambda attend, inputs, _: attend(**change(index, inputs)))
            with caught:
                output = forward(*args, **kwargs)
            if caught.count != 1:
                raise RuntimeError(
                    f"an attention of class {type(modules[index]).__name__} computed {caught.count} of torch's own "
                    "products, and 1 is needed: use diffusers' own processors and the default backend "
                    "(pipe.transformer.set_attention_backend('native'))"
                )
            return output

        return run

    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.enter_context(replaced(module, "forward", within(index, module.forward)))
        yield


class Product:
    """The attention weights of one row of a product, in float32 or more: softmax(scale q k^T + mask).

    Args:
        inputs: of the product, by name.
        row: which row.

    Example:
        >>> tokens = torch.eye(3)[None, None]  # one row, one head, three tokens
        >>> Product({"query": tokens, "key": tokens}, 0).weights(slice(0, 1)).sum(-1).round(decimals=4)
        tensor([[1.]])
    """

    def __init__(self, inputs: Inputs, row: int) -> None:
        query, key = (inputs[name][row] for name in ("query", "key"))
        exact = torch.promote_types(query.dtype, torch.float32)
        scale = inputs.get("scale")
        self.query = query.detach().to(exact) * (query.shape[-1] ** -0.5 if scale is None else scale)
        key = key.detach().to(exact)
        self.key = key.repeat_interleave(len(query) // len(key), 0)  # some heads may share a key
        self.mask = self._mask(inputs, row)

    def _mask(self, inputs: Inputs, row: int) -> torch.Tensor | None:
        """What is added to the scores, (heads, queries, keys), as a view where possible."""
        shape = (len(inputs["query"]), len(self.query), self.query.shape[1], self.key.shape[1])
        mask = inputs.get("attn_mask")
        if inputs.get("is_causal"):
            mask = torch.ones(shape[2:], dtype=torch.bool, device=self.query.device).tril()
        if mask is None:
            return None
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=self.query.dtype, device=mask.device).masked_fill(~mask, -torch.inf)
        return torch.broadcast_to(mask, shape)[row]

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return len(self.query)

    def weights(self, queries: slice) -> torch.Tensor:
        """The weights of some queries, (heads, queries, keys); over the keys they sum to 1."""
        scores = self.query[:, queries] @ self.key.transpose(-1, -2)
        return (scores if self.mask is None else scores + self.mask[:, queries]).softmax(-1)

    def mass(self, queries: slice, see: Callable[[slice, torch.Tensor], None] | None = None) -> torch.Tensor:
        """What each key receives of some queries' weights, mean over these: (heads, keys); over the keys it sums to 1.

        Args:
            queries: with a start and a stop, at least one.
            see: called for each part of the queries, with its weights (heads, queries, keys) and the queries' range.
        """
        limit = AT_ONCE if self.query.device.type == "cpu" else AT_ONCE_ELSEWHERE
        step = max(1, limit // (self.heads * self.key.shape[1]))
        total = torch.zeros(self.key.shape[:2], dtype=self.key.dtype, device=self.key.device)
        for begin in range(queries.start, queries.stop, step):
            part = slice(begin, min(begin + step, queries.stop))
            weights = self.weights(part)
            total += weights.sum(1)
            if see is not None:
                see(part, weights)
        return total / (queries.stop - queries.start)
