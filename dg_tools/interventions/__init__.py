"""Edits of hidden states (`Disrupt`) and of attention (`MaskTokens`), with their matched controls.

`Disrupt` is one edit: what (channels, mode), where (blocks, stream, tokens), when (steps), and for which rows. The same
object serves sampling, capture, the one-step experiment and Detail Guidance. `Disrupt.controls` gives its matched
controls: perturbations that leave the massive channels alone. Each answers one objection. Zeroing random channels is a
sanity row, not the control, because no other channel holds as much.

`settings` holds the fields, `validation` says which of them go together, `modes` has the arithmetic of each mode,
`controls` the matched controls, and `hooks` puts edits on a transformer. `norms`, `gates` and `patching` are for edits
that act on LayerNorms, on AdaLN gates, or with values from another run. `disrupt` puts all of it into one class.

`MaskTokens` is an edit of another kind: it keeps tokens from being attended to. It goes wherever edits go as `edits=`.
"""

from dg_tools.interventions.controls import CONTROLS, Control, variance_matched
from dg_tools.interventions.disrupt import Disrupt
from dg_tools.interventions.hooks import attached
from dg_tools.interventions.mask_tokens import MaskTokens
from dg_tools.interventions.patching import Donor
from dg_tools.interventions.settings import MODES, Mode

__all__ = ["CONTROLS", "MODES", "Control", "Disrupt", "Donor", "Edit", "MaskTokens", "Mode"]
__all__ += ["attached", "variance_matched"]

Edit = Disrupt | MaskTokens
