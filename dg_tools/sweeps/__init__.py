"""Sweeps over blocks, scales and steps: measure every combination, choose one, and report it on other prompts.

A sweep is a folder of cells, each written as soon as it is done. Started again, it goes on where it stopped, in one
process or several.
"""

from dg_tools.sweeps._sweep import sweep
from dg_tools.sweeps.config import Config, read_config
from dg_tools.sweeps.result import Sweep, open_sweep

__all__ = ["Config", "Sweep", "open_sweep", "read_config", "sweep"]
