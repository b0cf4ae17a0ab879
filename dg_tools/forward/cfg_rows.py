"""Which rows of a call are conditional, and which half of classifier-free guidance is each call of a step?"""

from __future__ import annotations

from dg_tools.families import Family
from dg_tools.forward.call import NOTHING, Branch


class CfgRows:
    """Tells the rows and the calls of one denoising step apart, by the family's layout.

    Attributes:
        family: the record; `rows` says how classifier-free guidance is laid out.
        calls: number of calls of this step so far.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.calls = 0
        self._names: set[str] = set()

    def begin(self) -> None:
        """A new step."""
        self.calls = 0
        self._names = set()

    def read(self, rows: int, guided: bool, name: str | None) -> tuple[Branch, slice, slice]:
        """The branch of the next call of this step, its conditional rows, and its unconditional ones.

        Args:
            rows: how many the call has.
            guided: whether classifier-free guidance is on.
            name: the pipeline's name for the pass (diffusers' `cache_context`), if it has one.
        """
        everything = slice(0, rows)
        if self.family.rows == "sequential":
            branch = self._sequential(guided, name)
            cond, uncond = (NOTHING, everything) if branch == "uncond" else (everything, NOTHING)
        elif self.calls:
            branch, cond, uncond = "other", everything, NOTHING
        elif guided:
            first, second = slice(0, rows // 2), slice(rows // 2, rows)
            branch = "both"
            uncond, cond = (first, second) if self.family.rows == "batched" else (second, first)
        else:
            branch, cond, uncond = "cond", everything, NOTHING
        self.calls += 1
        return branch, cond, uncond

    def _sequential(self, guided: bool, name: str | None) -> Branch:
        """The branch of one of several calls of a step: by its name where the pipeline gives one, else by its order."""
        if name is not None:
            again = name in self._names
            self._names.add(name)
            return "other" if again else self.family.contexts.get(name, "other")
        order: tuple[Branch, ...] = ("cond", "uncond") if guided else ("cond",)
        return order[self.calls] if self.calls < len(order) else "other"
