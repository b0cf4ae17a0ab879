"""What a call of the transformer says of itself."""

from __future__ import annotations

from dg_tools.forward.call import Call


def test_a_call_outside_of_sampling():
    call = Call.at(0.25, step=3, image_tokens=8)
    assert (call.step, call.timestep, call.sigma, call.image_tokens) == (3, 250.0, 0.25, 8)
    assert call.branch == "cond" and call.rows("all") == call.rows("cond") == slice(None)
    both = Call(3, 250.0, 0.25, "both", slice(2, 4), slice(0, 2), 8)
    assert both.alone() == call and both.rows("cond") == slice(2, 4)
