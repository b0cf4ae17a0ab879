"""What happens when massive channels are switched off, and what happens when something else is?

`Disrupt` is one edit: what (channels, mode), where (blocks, stream, tokens), when (steps), and for which rows. The same
object serves sampling, capture, the one-step experiment and Detail Guidance. `Disrupt.controls` gives its matched
controls: perturbations that leave the massive channels alone, each the answer to one objection. Zeroing random channels
is a sanity row, not the control, because no other channel holds as much.

`disrupt` holds the settings, `rules` which of them go together, `changes` the arithmetic of each mode, `attach` the
hooks; `norms`, `gates` and `donors` what acts elsewhere than at a block's output, or takes its values from there.
"""

from dg_tools.interventions.attach import attached
from dg_tools.interventions.controls import CONTROLS, Control, variance_matched
from dg_tools.interventions.disrupt import Disrupt
from dg_tools.interventions.donors import Donor
from dg_tools.interventions.rules import MODES, Mode

__all__ = ["CONTROLS", "MODES", "Control", "Disrupt", "Donor", "Mode", "attached", "variance_matched"]
