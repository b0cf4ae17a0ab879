"""The paper's claims as functions: each with its controls, its interval, a bound set beforehand, and a verdict.

One file a question; `result` says what they return, `subject` how channels and prompts are split between detection and
test.
"""

from __future__ import annotations

from dg_tools.experiments.denoising import denoise
from dg_tools.experiments.details import detail
from dg_tools.experiments.guided import guidance
from dg_tools.experiments.lenses import Lens, lens
from dg_tools.experiments.matches import correspondence
from dg_tools.experiments.one_step import DenoiseError, denoise_error
from dg_tools.experiments.origins import origin
from dg_tools.experiments.result import Outcome, Result, open_result
from dg_tools.experiments.when import timestep
from dg_tools.experiments.where import tokens

__all__ = ["DenoiseError", "Outcome", "Result", "denoise", "denoise_error", "detail", "guidance"]
__all__ += ["open_result", "tokens"]
__all__ += ["Lens", "lens", "origin", "timestep"]
__all__ += ["correspondence"]
