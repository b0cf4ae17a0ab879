"""What people do to a pipeline's weights before they hand it over: quantised, offloaded, with LoRA."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import cpu_offload

CPU = torch.device("cpu")


def int8(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """torchao's weight-only int8: every linear layer's weight is a tensor that wraps bytes and scales."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(pipe.transformer, Int8WeightOnlyConfig(version=2))


def quanto(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """optimum-quanto's int8, frozen."""
    from optimum.quanto import freeze, qint8, quantize

    quantize(pipe.transformer, weights=qint8)
    freeze(pipe.transformer)


def gguf(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """GGUF's Q8_0 in the attention and MLP layers of the blocks, as diffusers loads a GGUF file."""
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType.Q8_0
    for block in pipe.transformer.transformer_blocks:
        for name, old in list(block.named_modules()):
            if not isinstance(old, torch.nn.Linear) or "norm" in name:
                continue
            new = GGUFLinear(old.in_features, old.out_features, bias=old.bias is not None, compute_dtype=dtype)
            stored = quants.quantize(old.weight.detach().float().numpy(), kind)
            new.weight = GGUFParameter(torch.from_numpy(stored.copy()), quant_type=kind)
            new.bias = old.bias
            block.set_submodule(name, new)


class Params4bit(torch.nn.Parameter):
    """As the weight of bitsandbytes' Linear4bit: packed bytes, and their state beside them."""

    quant_type = "nf4"


class Linear4bit(torch.nn.Linear):
    """As bitsandbytes' layer: four bits a value, a largest value for each row, both in the state dict.

    The package itself (125 MB, and a second of every import of diffusers) is not among the tests' packages; with it, by
    hand, `Linear4bit` and `Linear8bitLt` give one hash before and after a run.
    """

    def __init__(self, old: torch.nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features)
        self.bias = old.bias
        self.absmax = old.weight.detach().abs().amax(1, keepdim=True)
        codes = (old.weight.detach() / self.absmax * 7).round().to(torch.int8) + 8
        packed = (codes[:, ::2] * 16 + codes[:, 1::2]).to(torch.uint8).reshape(-1, 1)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.weight.__class__ = Params4bit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = self.weight.data.reshape(self.out_features, -1)
        codes = torch.stack([packed // 16, packed % 16], -1).flatten(1).to(x.dtype) - 8
        return torch.nn.functional.linear(x, codes / 7 * self.absmax.to(x.dtype), self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight.absmax"] = self.absmax


def nf4(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """Four-bit layers as those of bitsandbytes in the MLPs."""
    for block in pipe.transformer.transformer_blocks:
        block.ff.net[2] = Linear4bit(block.ff.net[2])


def fp8(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """diffusers' layerwise casting: stored in eight bits, computed in `dtype`."""
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def lora(pipe: Any, dtype: torch.dtype = torch.float32, scale: float = 0.7) -> None:
    """peft's LoRA on every attention's projections, active at `scale`."""
    from peft import LoraConfig

    with torch.random.fork_rng():
        torch.manual_seed(7)
        layers = ["to_q", "to_k", "to_v"]
        pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=layers, init_lora_weights=False), "style")
    pipe.transformer.set_adapters(["style"], [scale])
    pipe.transformer.to(dtype)


def sequential(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """What `enable_sequential_cpu_offload` does to a transformer.

    Its own state dict holds bare tensors, with which accelerate 1.15 fails where both ends are the CPU, without us too.
    """
    model = pipe.transformer
    cpu_offload(model, "cpu", state_dict={**dict(model.named_parameters()), **dict(model.named_buffers())})


def whole(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """One part of the pipeline at a time."""
    pipe.enable_model_cpu_offload(device="cpu")


def group(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """A block at a time."""
    pipe.enable_group_offload(onload_device=CPU, offload_type="block_level", num_blocks_per_group=1)


def leaves(pipe: Any, dtype: torch.dtype = torch.float32) -> None:
    """A layer at a time."""
    pipe.enable_group_offload(onload_device=CPU, offload_type="leaf_level")


QUANTISED = {"int8": int8, "quanto": quanto, "gguf": gguf, "nf4": nf4, "fp8": fp8}
OFFLOADED = {"sequential": sequential, "model": whole, "group": group, "leaves": leaves}
KINDS = {**QUANTISED, **OFFLOADED, "lora": lora}
