"""The record of one list of blocks, from some of its blocks run alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dg_tools.families import BlockList
from dg_tools.proposal.block import BlockRun, Source
from dg_tools.proposal.streams import Chain, states
from dg_tools.proposal.watched import Ran
from dg_tools.proposal.writers import Writer

DUAL = "use_dual_attention"  # the attribute that `BlockList.modulation_dual` asks
CROSS = "attn2"  # the part without a gate that `verify` knows


@dataclass
class Branches:
    """The parts of a block that write, as a record names them."""

    attn: str | None = None
    dual: str = ""
    mlp: str | None = None
    mlp_in: str = ""
    writers: tuple[tuple[str, Writer], ...] = ()  # (suffix of their chunks, part), in the order in which they run
    gated: tuple[str, ...] = ()  # suffixes of those that the block's output is a sum of
    concatenated: bool = False
    image_first: bool = False


def propose_list(chain: Chain, label: str, config: Any, words: list[str]) -> BlockList:
    """The record of one list; a sentence on each fact that was not found is appended to `words`.

    Args:
        chain: the list, as it ran.
        label: prefix of its sites.
        config: the transformer's configuration.
        words: sentences, added to.
    """
    kinds = list({parts_of(ran): ran for ran in reversed(chain.ran)}.values())[::-1]
    found = [facts(BlockRun(chain, ran), f"{chain.path}.{ran.index}", words) for ran in kinds]
    most = max(found, key=lambda f: len(f["modulation"]))
    least = min(found, key=lambda f: len(f["modulation"]))
    merged = {**least, "attn_dual": most["attn_dual"], "modulation_dual": None}
    if most["modulation"] != least["modulation"]:
        merged["modulation_dual"] = most["modulation"]
        if not any(getattr(ran.block, DUAL, False) for ran in kinds):
            words.append(f"{chain.path}: its blocks have different chunks, and a record tells them by .{DUAL} alone")
    for name in ("adaln", "given", "table", "still", "attn", "mlp", "mlp_gate", "mlp_is_concatenated", "gate_is_tanh"):
        if len({f[name] for f in found}) > 1:
            several = ", ".join(sorted({repr(f[name]) for f in found}))
            words.append(f"{chain.path}: its blocks differ in {name} ({several}); a record has one for all of them")
    merged["image_first"] = chain.image_first or merged["image_first"]
    return BlockList(
        chain.path,
        label=label,
        returns=chain.returns,
        hidden=chain.hidden,
        image=chain.image,
        text=chain.text,
        text_only=text_only(chain),
        drops_text=drops_text(chain, words),
        length=length(chain, config, words),
        **merged,
    )


def parts_of(ran: Ran) -> tuple:
    """A block's class, and its parameters with their shapes: the same for blocks of one kind."""
    return type(ran.block), tuple((name, tuple(p.shape)) for name, p in ran.block.named_parameters())


def facts(run: BlockRun, name: str, words: list[str]) -> dict[str, Any]:
    """The facts that one block shows about its list."""
    branches = find_branches(run, name, words)
    told: dict[str, Any] = {
        "adaln": None,
        "given": "",
        "table": "",
        "still": False,
        "modulation": (),
        "gate_is_tanh": False,
        "attn": branches.attn,
        "attn_dual": branches.dual,
        "mlp": branches.mlp,
        "mlp_in": branches.mlp_in,
        "mlp_is_concatenated": branches.concatenated,
        "image_first": branches.image_first,
    }
    fits: list[tuple[Source, tuple[str | None, ...]]] = []
    others: list[str] = []
    for source in run.sources():
        try:
            roles = run.roles(source, list(branches.writers))
        except LookupError as reason:
            others.append(f"{name}: a chunk of {source.path!r} {reason}")
            continue
        if any(roles):
            fits.append((source, roles))
    if len(fits) != 1:
        names = " and ".join(repr(source.path) for source, _ in fits) or "nothing that was found"
        words.append(f"{name}: its AdaLN chunks come from {names}; a record needs one source")
        words += others
    for source, roles in fits[:1]:
        gates = {f"gate{suffix}": w for suffix, w in branches.writers if suffix in branches.gated}
        table, tanh = run.acting(source, roles, gates)
        if tanh is None:
            words.append(f"{name}: its gates are neither its chunks nor their tanh")
        if source.is_input:
            while roles[-1] is None:
                roles = roles[:-1]
        told |= {"table": table, "still": bool(source.more), "modulation": roles, "gate_is_tanh": bool(tanh)}
        told |= {"given": source.path} if source.is_input else {"adaln": source.path}
    chunks = told["modulation"]
    suffixes = [suffix for suffix, _ in branches.writers]
    last = f"gate{suffixes[-1]}" if suffixes else "gate_mlp"
    told["attn_gate"] = "gate_msa" if "_msa" in branches.gated and "gate_msa" in chunks else None
    if "" in suffixes or branches.attn is None:
        told["attn_gate"] = "gate_msa"  # the default: there is no such branch
    told["mlp_gate"] = last if last in chunks or not chunks else "gate_mlp"
    return told


def find_branches(run: BlockRun, name: str, words: list[str]) -> Branches:
    """Attention and MLP of one block: the parts whose gated sum it adds."""
    gated = [w for w in run.writers if not w.ungated]
    for writer in run.writers:
        if writer.ungated and writer.path != CROSS:
            words.append(f"{name}: {writer.path} is added without a gate, and a record has no word for it")
        if writer.at:
            words.append(f"{name}: of what {writer.path} returns the image tokens are number {writer.at}, not 0")
    if not gated:
        words.append(f"{name}: what it adds to the image tokens is not a sum of gate x part; attn and mlp are not told")
        return Branches(writers=guesses(run))
    joined = {"concatenated": any(w.joint for w in gated), "image_first": any(w.image_first for w in gated)}
    part = run.block.get_submodule(gated[-1].path)
    if len(gated) == 1 and (is_attention(part) or isinstance(part, torch.nn.Linear)):
        inner = innermost(run, gated[0]) if is_attention(part) else gated[0]
        return Branches(None, "", inner.path, first_of_mlp(run, part), (("", inner),), ("",), **joined)
    if len(gated) == 1:
        attention = [w for w in run.candidates if is_attention(run.block.get_submodule(w.path))]
        attn = attention[0] if attention else None
        named = ((("_msa", attn),) if attn else ()) + (("_mlp", gated[0]),)
        return Branches(attn.path if attn else None, "", gated[0].path, "", named, ("_mlp",), **joined)
    suffixes = ("_msa", "_mlp") if len(gated) == 2 else ("_msa", "_msa2", "_mlp")
    named = tuple(zip(suffixes, gated, strict=True))
    mlp: str | None = gated[-1].path
    if sum(s.gives and s.path == mlp for s in run.base) > 1:
        words.append(f"{name}: {mlp} runs more than once, so that mlp is None: a trace could not tell the runs apart")
        mlp = None
    return Branches(gated[0].path, gated[1].path if len(gated) == 3 else "", mlp, "", named, suffixes, **joined)


def first_of_mlp(run: BlockRun, joint: torch.nn.Module) -> str:
    """The linear layer that the MLP begins with, where one projection writes what it and attention give."""
    if not isinstance(joint, torch.nn.Linear):
        return ""
    width, more = run.chain.width, joint.in_features - run.chain.width  # twice as much where half of it is a gate
    layers = {n: m for n, m in run.block.named_children() if isinstance(m, torch.nn.Linear) and m is not joint}
    fits = [n for n, m in layers.items() if m.in_features == width and m.out_features in (more, 2 * more)]
    return fits[0] if fits else ""


def guesses(run: BlockRun) -> tuple[tuple[str, Writer], ...]:
    """Attention alone, where no sum fits: the chunks before it can still be identified."""
    attention = [w for w in run.candidates if is_attention(run.block.get_submodule(w.path))]
    return tuple(("_msa", w) for w in attention[:1])


def is_attention(module: torch.nn.Module) -> bool:
    """Whether a part is an attention, by its processor or its class."""
    return hasattr(module, "processor") or "attention" in type(module).__name__.lower()


def innermost(run: BlockRun, writer: Writer) -> Writer:
    """The innermost part of an attention with the same output: its output projection."""
    width = writer.output.shape[-1]
    inside = [s for s in run.base if s.gives and s.path.startswith(f"{writer.path}.") and s.value.shape[-1] == width]
    for one in inside:
        own = run.chain.own(one.value)
        if own is not None and own[0].equal(writer.output):
            return Writer(one.path, writer.output, writer.gate, writer.joint, writer.image_first, one.at)
    return writer


def text_only(chain: Chain) -> tuple[str, ...]:
    """Parts that see text tokens alone and have LayerNorms; outermost ones."""
    if chain.returns != "tuple":
        return ()
    counts: dict[str, set[int]] = {}
    ran = chain.ran[0]
    handles = []
    for path, module in ran.block.named_modules():

        def before(m: torch.nn.Module, args: tuple, kwargs: dict[str, Any], path: str = path) -> None:
            given = states((*args, *kwargs.values())).values()
            tokens = {x.shape[1] for x in given if x.shape[-1] == chain.width}
            counts.setdefault(path, set()).update(tokens & chain.counts)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    with torch.no_grad():
        ran.block(**ran.inputs)
    for handle in handles:
        handle.remove()
    found: list[str] = []
    for path, tokens in counts.items():
        parts = ran.block.get_submodule(path).modules()
        norms = any(isinstance(part, torch.nn.LayerNorm) for part in parts)
        if norms and tokens == {chain.text_tokens} and not any(path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return tuple(found)


def drops_text(chain: Chain, words: list[str]) -> str:
    """The attribute of a block that is true where it returns no text stream; empty where all return one."""
    if chain.returns != "tuple":
        return ""
    dropped = [ran.output[chain.text] is None for ran in chain.ran]
    if not any(dropped):
        return ""
    for name in vars(chain.ran[0].block):
        values = [getattr(ran.block, name, None) for ran in chain.ran]
        if all(isinstance(v, bool) for v in values) and values == dropped:
            return name
    words.append(f"{chain.path}: some blocks return no text stream, and no attribute of theirs says which")
    return ""


def length(chain: Chain, config: Any, words: list[str]) -> str:
    """The configuration entry with the number of blocks."""
    count = len(chain.ran)
    same = [
        n
        for n, v in config.items()
        if type(v) is int and v == count and ("layers" in n or "depth" in n or "blocks" in n)
    ]
    stem = chain.path.split("_")[0]
    named = [n for n in same if stem in n.split("_")] or [n for n in same if n.startswith("num_layers")] or same
    if len(named) != 1:
        words.append(f"{chain.path}: its length {count} is that of {' and '.join(named) or 'no configuration'}")
    return named[0] if named else "num_layers"
