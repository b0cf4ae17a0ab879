"""Does dg_tools act on this loaded checkpoint as documented? Checks against plain hooks and loops written by hand.

    from dg_tools.verification import verify

    print(verify(dit))

`_verify` runs the checks in order. `record`, `captured` and `guided` hold them, one subject each; `plain` is the
pipeline's own call that they compare with, and `restored` what must be as it was afterwards.
"""

from dg_tools.verification._verify import verify
from dg_tools.verification.result import Check, Verification

__all__ = ["Check", "Verification", "verify"]
