"""The paper's claims as functions: each with its controls, its interval, a bound set beforehand, and a verdict.

Experiment `x` is in `_x.py`, and its figure in `plots/x.py`. `result` has the return types; `subject` splits the
prompts into detection and test.
"""

from __future__ import annotations

from dg_tools.experiments._correspondence import correspondence
from dg_tools.experiments._denoise import denoise
from dg_tools.experiments._denoise_error import DenoiseError, denoise_error
from dg_tools.experiments._detail import detail
from dg_tools.experiments._dose import dose
from dg_tools.experiments._guidance import guidance
from dg_tools.experiments._lens import Lens, lens
from dg_tools.experiments._origin import origin
from dg_tools.experiments._rivals import rivals
from dg_tools.experiments._sinks import sinks
from dg_tools.experiments._timestep import timestep
from dg_tools.experiments._tokens import tokens
from dg_tools.experiments.result import Outcome, Result, open_result
from dg_tools.experiments.semantics import Score, semantic_scores

__all__ = [
    "DenoiseError",
    "Lens",
    "Outcome",
    "Result",
    "Score",
    "correspondence",
    "denoise",
    "denoise_error",
    "detail",
    "dose",
    "guidance",
    "lens",
    "open_result",
    "origin",
    "rivals",
    "semantic_scores",
    "sinks",
    "timestep",
    "tokens",
]
