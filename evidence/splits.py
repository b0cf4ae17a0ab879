"""The parts of the captions, as tutorial 10 imports them; the code is `dg_tools.report.splits`."""

from dg_tools.report.splits import SEED, split

__all__ = ["SEED", "split"]
