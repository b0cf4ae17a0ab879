"""The baselines that Detail Guidance is compared with: the same sum, with degraded predictions of other papers.

    D = c  or  u + s (c - u),   plus   w (c - degraded)

Each is a guider like `DetailGuidance` and goes wherever that goes: `dg.generate(guidance=...)`, `dg.detail_guidance`,
`dg.compare`. All are anchored on the conditional prediction c, so that w means the same with and without CFG.
Which code computes each, and why (diffusers 0.42; `tests/test_baselines.py` shows these faults, and fails once
diffusers mends them):

| baseline | degraded prediction | source | whose code |
|---|---|---|---|
| `dg.CFG` | u | arXiv 2207.12598 | diffusers': right |
| `PAG` | image-image attention at the identity in some blocks | arXiv 2403.17377 | ours: diffusers' guider knows neither SD3's nor FLUX.1's attention, its SD3 pipeline hits other blocks too and fails on SD3.5-medium |
| `SLG` | some blocks skipped | Stability AI, SD3.5 | ours: diffusers' guider swaps the streams of SD3 and FLUX.1, and leaves its hooks; its SD3 pipeline is right, and ours equals it |
| `SEG` | image queries blurred in some blocks | arXiv 2408.00760 | ours: diffusers' guider never sets its hook, takes Gaussian for infinite and the other way round, and assumes square pictures |
| `SoftPAG` | attention of some heads mixed with the identity | arXiv 2506.10978, equation 7 | ours, after the authors' code: that is a changed copy of diffusers |
| `S2Guidance` | a few blocks skipped, others in each step | arXiv 2508.12880, equation 4 | ours: no code was published |
| `SLGUncond` | none: u with some blocks skipped, for the price of CFG | ComfyUI's SkipLayerGuidanceDiTSimple | ours: there it is ComfyUI's |
| `AutoGuidance` | of a weak model of the same kind | arXiv 2406.02507 | ours: diffusers' weakens the *unconditional* pass by skipped layers, which is another method, and fails on SD3 as its SLG does |
| `Blurred` | the predicted picture, blurred | ours: unsharp masking of x0 | ours: there is none |
| `APG` | u, projected | arXiv 2410.02416 | diffusers' function, given the predicted pictures x0 that the paper projects; its guider gives it velocities |
| `CFGZeroStar` | u, rescaled | arXiv 2503.18886 | diffusers': right |
| `FreSca` | u; the high band of c - u counts more | arXiv 2504.02154 | ours, on bands in cycles per latent cell; the authors' cut depends on the size |
| `FDG` | u; a CFG scale for each band | arXiv 2506.19713, algorithm 2 | ours, on the same bands: diffusers' guider needs kornia, and splits velocities where it projects |
| `NAG` | none: attention goes away from a negative prompt, without CFG | arXiv 2505.21179 | ours, after the authors' processors: these are for older versions of diffusers |
| `Gain` | none: the guided velocity, or x0, times a number | ours: what a weak model that is quieter than c buys | ours: there is none |
| `DetailDaemon` | none: the model is told a lower noise level in mid-run | muerrilla's sd-webui-detail-daemon, Jonseed's ComfyUI-Detail-Daemon | ours, after their formula: theirs are of other programs |

Extra forwards per step and picture: one for PAG, SLG, SEG, `SoftPAG` and `S2Guidance` (only from their first perturbed
block on), for `AutoGuidance`, and for `NAG`, which needs no CFG. None for `Blurred`, `FreSca`, `FDG`, `APG`,
`CFGZeroStar`, `SLGUncond`, `Gain` and `DetailDaemon`.

PAG, SLG, SEG, `SoftPAG`, `NAG` and `Blurred` know the layouts of SD3, SD3.5 and FLUX.1 and refuse other families.
"""  # noqa: E501

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use
from dg_tools.guidance.baselines.registry import BASELINES, HOME, RIVALS

_HOME = {name: BASELINES[name].module.removeprefix(f"{HOME}.") for name in RIVALS} | {"Perturbed": "perturbed"}

__all__ = [
    "APG",
    "FDG",
    "NAG",
    "PAG",
    "SEG",
    "SLG",
    "AutoGuidance",
    "Blurred",
    "CFGZeroStar",
    "DetailDaemon",
    "FreSca",
    "Gain",
    "Perturbed",
    "S2Guidance",
    "SLGUncond",
    "SoftPAG",
]

if TYPE_CHECKING:
    from dg_tools.guidance.baselines.auto_guidance import AutoGuidance
    from dg_tools.guidance.baselines.blurred import Blurred
    from dg_tools.guidance.baselines.combined import APG, CFGZeroStar
    from dg_tools.guidance.baselines.daemon import DetailDaemon
    from dg_tools.guidance.baselines.frequency import FDG, FreSca
    from dg_tools.guidance.baselines.gain import Gain
    from dg_tools.guidance.baselines.nag import NAG
    from dg_tools.guidance.baselines.pag import PAG
    from dg_tools.guidance.baselines.perturbed import Perturbed
    from dg_tools.guidance.baselines.s2 import S2Guidance
    from dg_tools.guidance.baselines.seg import SEG
    from dg_tools.guidance.baselines.slg import SLG
    from dg_tools.guidance.baselines.slg_uncond import SLGUncond
    from dg_tools.guidance.baselines.soft_pag import SoftPAG

__getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
