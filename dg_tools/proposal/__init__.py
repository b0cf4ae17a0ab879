"""A family record proposed for a class that has none, by probing forwards of the loaded model.

    import dg_tools as dg

    print(dg.families.propose(pipe))

`_propose` runs the probes in order. `runs` calls the pipeline and keeps what its transformer is given; `watched` is
one forward, block by block; `streams` follows the image tokens through the lists. `block` runs one block alone with a
chunk changed, `writers` finds the parts whose gated sum it adds, and `block_list` makes a list's record of both. `cfg`
finds how the pipeline guides; `layout` finds sizes, positions and latents. `assembled` puts everything together,
`proven` checks it, and `result` writes it as Python.
"""

from dg_tools.proposal._propose import propose
from dg_tools.proposal.result import Proposal

__all__ = ["Proposal", "propose"]
