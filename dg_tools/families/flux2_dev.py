"""FLUX.2-dev: the same transformer as FLUX.2 Klein's, with a guidance embedding and without classifier-free guidance.

Its pipeline's `guidance_scale` is an input of the transformer, as in FLUX.1-dev, and not a CFG scale. Detail Guidance
works without CFG.
"""

from dataclasses import replace

from dg_tools.families.flux2 import FAMILY as FLUX2

FAMILY = replace(
    FLUX2,
    name="flux2-dev",
    guidance_argument="true_cfg_scale",  # its call has none
    pipelines=("Flux2Pipeline",),
)
