"""The paper's claims as functions: each with its controls, its interval, a bound set beforehand, and a verdict.

One file a question; `result` says what they return, `subject` how channels and prompts are split between detection and
test.
"""

from __future__ import annotations

from dg_tools.experiments._correspondence import correspondence
from dg_tools.experiments._denoise import denoise
from dg_tools.experiments._denoise_error import DenoiseError, denoise_error
from dg_tools.experiments._detail import detail
from dg_tools.experiments._guidance import guidance
from dg_tools.experiments._lens import Lens, lens
from dg_tools.experiments._origin import origin
from dg_tools.experiments._timestep import timestep
from dg_tools.experiments._tokens import tokens
from dg_tools.experiments.result import Outcome, Result, open_result

__all__ = ["DenoiseError", "Outcome", "Result", "denoise", "denoise_error", "detail", "guidance"]
__all__ += ["open_result", "tokens"]
__all__ += ["Lens", "lens", "origin", "timestep"]
__all__ += ["correspondence"]
