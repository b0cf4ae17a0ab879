"""What is Detail Guidance compared with? The same sum with the degraded predictions that others proposed.

    D = c  or  u + s (c - u),   plus   w (c - degraded)

Each is a guider like `DetailGuidance` and goes wherever that goes: `dg.generate(guidance=...)`, `dg.detail_guidance`,
`dg.compare`. All are anchored on the conditional prediction c, so that w means the same with and without CFG.
Which code computes it, and why (diffusers 0.42; `tests/test_baselines.py` shows it, and fails once diffusers mends it):

| baseline | degraded prediction | source | whose code |
|---|---|---|---|
| `dg.CFG` | u | arXiv 2207.12598 | diffusers': right |
| `PAG` | image-image attention at the identity in some blocks | arXiv 2403.17377 | ours: diffusers' guider knows neither SD3's nor FLUX.1's attention, its SD3 pipeline hits other blocks too and fails on SD3.5-medium |
| `SLG` | some blocks skipped | Stability AI, SD3.5 | ours: diffusers' guider swaps the streams of SD3 and FLUX.1, and leaves its hooks; its SD3 pipeline is right, and ours equals it |
| `SEG` | image queries blurred in some blocks | arXiv 2408.00760 | ours: diffusers' guider never sets its hook, takes Gaussian for infinite and the other way round, and assumes square pictures |
| `AutoGuidance` | of a weak model of the same kind | arXiv 2406.02507 | ours: diffusers' weakens the *unconditional* pass by skipped layers, which is another method, and fails on SD3 as its SLG does |
| `Blurred` | the predicted picture, blurred | ours: unsharp masking of x0 | ours: there is none |
| `APG` | u, projected | arXiv 2410.02416 | diffusers' function, given the predicted pictures x0 that the paper projects; its guider gives it velocities |
| `CFGZeroStar` | u, rescaled | arXiv 2503.18886 | diffusers': right |
| `Gain` | none: the guided velocity, or x0, times a number | ours: what a weak model that is quieter than c buys | ours: there is none |
| `DetailDaemon` | none: the model is told a lower noise level in mid-run | muerrilla's sd-webui-detail-daemon, Jonseed's ComfyUI-Detail-Daemon | ours, after their formula: theirs are of other programs |

PAG, SLG, SEG and `Blurred` know the layouts of SD3, SD3.5 and FLUX.1 and refuse other families.
"""  # noqa: E501

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use
from dg_tools.guidance.baselines.registry import BASELINES, HOME, RIVALS

_HOME = {name: BASELINES[name].module.removeprefix(f"{HOME}.") for name in RIVALS} | {"Perturbed": "perturbed"}

__all__ = ["APG", "PAG", "SEG", "SLG", "AutoGuidance", "Blurred", "CFGZeroStar", "DetailDaemon", "Gain", "Perturbed"]

if TYPE_CHECKING:
    from dg_tools.guidance.baselines.auto_guidance import AutoGuidance
    from dg_tools.guidance.baselines.blurred import Blurred
    from dg_tools.guidance.baselines.combined import APG, CFGZeroStar
    from dg_tools.guidance.baselines.daemon import DetailDaemon
    from dg_tools.guidance.baselines.gain import Gain
    from dg_tools.guidance.baselines.pag import PAG
    from dg_tools.guidance.baselines.perturbed import Perturbed
    from dg_tools.guidance.baselines.seg import SEG
    from dg_tools.guidance.baselines.slg import SLG

__getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
