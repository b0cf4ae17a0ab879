"""The result in ten lines, each made from the rows: what holds is said to hold, and what does not, not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dg_tools.report import rules
from dg_tools.report.cells import change, interval, number
from dg_tools.report.kept import Column
from dg_tools.report.verdict import FAILS, HOLDS, NOT_TESTED, Row
from evidence.columns import NULL, PLANTED
from evidence.kept import Columns, models


def lines(columns: Columns) -> list[str]:
    """Ten lines, as a list in Markdown."""
    shown = models(columns)
    made = [
        ("**What they are.** ", each(shown, what_they_are)),
        ("**On all tokens, of one sign, nearly constant, the same for all prompts.** ", each(shown, constancy)),
        ("**Where they come from.** ", each(shown, origin)),
        ("**What they do: they set the amount of detail.** ", each(shown, dose)),
        ("**Zero, as published, is not a model that lacks detail here.** "
         if all(c.rows["zero a"].status == FAILS for c in shown.values())
         else "**Zero, as published.** ", each(shown, lambda c: weak(c, "zero"))),
        ("**The dose that `auto` chose.** ", each(shown, lambda c: weak(c, "auto"))),
        ("**What DG buys.** ", each(shown, guidance)),
        ("**Beside a gain, CFG and Detail Daemon.** ", each(shown, beside)),
        ("**Would we have seen it?** ", instrument(columns)),
        ("**Not tested, and not said.** ", unsaid(shown)),
    ]  # fmt: skip
    if "not all as it must" in made[8][1]:  # the rules: an instrument that misses is told first
        made.insert(0, made.pop(8))
    return [f"{i}. {head}{text}" for i, (head, text) in enumerate(made, 1)]


def each(shown: Columns, sentence: Callable[[Column], str]) -> str:
    """A sentence about each model."""
    return " ".join(f"`{name}`: {sentence(column)}" for name, column in shown.items())


def verdict(row: Row) -> str:
    """Status and number, short."""
    if row.status == NOT_TESTED or row.number is None:
        return f"not tested ({row.why})"
    return f"{row.status} ({interval(row.number, signed=row.section in ('3', '4'))})"


def what_they_are(column: Column) -> str:
    """Channels, how far they stand out, how much energy they have."""
    facts, row = column.record["facts"], column.rows["stands out"]
    if not facts["by_block"] or row.number is None:
        return "no channel is massive."
    most = max(facts["by_block"], key=lambda b: b["energy"])
    names = ", ".join(map(str, facts["channels"]))
    return (
        f"channels {names}, up to {number(row.number[0])} times the median channel; "
        f"{most['energy']:.0%} of the stream's energy after block {most['block']}."
    )


def constancy(column: Column) -> str:
    """How many of these rows hold, and which do not."""
    keys = ["every token", "one sign", "constant", *(f"same {x}" for x in SAME)]
    other = [f"{key} {verdict(column.rows[key])}" for key in keys if column.rows[key].status != HOLDS]
    return "all hold." if not other else f"{len(keys) - len(other)} of {len(keys)} hold; {'; '.join(other)}."


def origin(column: Column) -> str:
    """The gates, the timestep and the prompt."""
    rows = column.rows
    return (
        f"AdaLN's gate peaks where a channel is written: {verdict(rows['gate peaks'])}; without it "
        f"{share(rows['gate makes it'])} of the channel is gone; the timestep explains most of its size at some "
        f"blocks only ({rows['timestep'].why.removeprefix('holds at ')})."
        if rows["timestep"].status not in (NOT_TESTED, HOLDS)
        else f"gate peaks: {verdict(rows['gate peaks'])}; timestep: {verdict(rows['timestep'])}."
    )


def share(row: Row) -> str:
    """A row's number as a share."""
    return "-" if row.number is None else f"{row.number[0]:.0%}"


def dose(column: Column) -> str:
    """The curve, and its ends."""
    row = column.rows["curve"]
    if row.status == NOT_TESTED or row.number is None:
        return f"not tested ({row.why})."
    ends = {rho: column.tables[f"rho {rho:g}"]["amt_c_clean"].mean() for rho in (rules.RHOS[0], rules.RHOS[-1])}
    low = column.tables[f"rho {rules.RHOS[0]:g}"]["low_clean"].mean()
    said = ", ".join(f"{number(amount, True)} at rho {rho:g}" for rho, amount in ends.items())
    return (
        f"{row.why} ({row.status}, rank correlation {interval(row.number)}): {said} doublings against clean, and the "
        f"layout stays (low band {low:.3f} at rho 0)."
    )


def weak(column: Column, name: str) -> str:
    """What the weak model lacks, or has more of."""
    row, text = column.rows[f"{name} a"], column.record["weak"][name]
    if row.status == NOT_TESTED or row.number is None:
        return f"not tested ({row.why})."
    kept = row.parts["low with clean"]
    words = {HOLDS: "it lacks detail", FAILS: "it does not lack detail"}.get(row.status, row.status)
    controls = f", {row.extreme} of {row.draws} draws of other channels as much" if row.draws else ""
    return (
        f"{text}: {words} (amt_c {interval(row.number, signed=True)}{controls}); low band with clean {interval(kept)}."
    )


def guidance(column: Column) -> str:
    """Both weak models' DG."""
    said = []
    for name, words in (("auto", "from auto's weak model"), ("zero", "from zero")):
        row = column.rows[f"{name} b"]
        if row.status == NOT_TESTED or row.number is None:
            said.append(f"{words} not tested ({row.why})")
            continue
        parts = ", ".join(f"{part} {number(value[0], True)}" for part, value in row.parts.items())
        why = f" ({row.why})" if row.why else ""
        said.append(f"{words} amt_c {interval(row.number, signed=True)}, {parts}: {row.status}{why}")
    return "; ".join(said) + "."


def beside(column: Column) -> str:
    """What the others give, on the same captions."""
    if "CFG 1.5" not in column.tables:
        return "not run."
    base = column.tables["cond"]
    said = []
    for name in ("DG, auto, half w", "gain 1.2", f"CFG {rules.SCALES[0]:g}", "daemon"):
        if name in column.tables:
            amount, right = (change(column.tables[name], base, k).split(" ")[0] for k in ("amt_c", "right"))
            margin = change(column.tables[name], base, "margin").split(" ")[0]
            said.append(f"{name} {amount} / {right} / {margin}")
    row = column.rows["auto c"]
    against = f"{row.why.split(';')[0]}, {verdict(row)}"
    if row.status == NOT_TESTED:
        against = row.why + (f" ({interval(row.number, signed=True)})" if row.number else "")
    return f"amt_c / right / margin, against cond: {'; '.join(said)}. DG against a gain of its amount: {against}."


def instrument(columns: Columns) -> str:
    """The planted and the null column."""
    said = []
    if (planted := columns.get(PLANTED)) is not None:
        keys = ("zero a", "zero b")
        missed = [shortfall(planted.rows[key]) for key in keys if planted.rows[key].status != HOLDS]
        words = f"**not all as it must: {'; '.join(missed)}**" if missed else "as it must"
        said.append(
            "The planted model, whose detail hangs on the channel: "
            + ", ".join(f"({key[-1]}) {verdict(planted.rows[key])}" for key in keys)
            + f": {words}."
        )
    if (null := columns.get(NULL)) is not None:
        about = [row for row in null.rows.values() if row.section in ("3", "4")]
        count = sum(row.status == NOT_TESTED for row in about)
        said.append(f"The null, random weights: not tested in {count} of {len(about)} rows about samples.")
    return " ".join(said) or "no control column is kept."


def shortfall(row: Row) -> str:
    """What a row of the planted model is short of."""
    parts = [f"{name} {interval(value)}" for name, value in row.parts.items() if name in row.why]
    return f"({row.key[-1]}) {row.why} ({'; '.join([*parts, f'required: {row.bound}'])})"


def unsaid(shown: Columns) -> str:
    """What was not tested, and what none of it says."""
    each_model = []
    for name, column in shown.items():
        keys = [row.key for row in column.rows.values() if row.status == NOT_TESTED]
        each_model.append(f"`{name}`: {', '.join(keys) or 'all was tested'}.")
    return (
        " ".join(each_model)
        + " Both models are small, of one VAE and one data set of drawings. **None of this says what SD3.5 or FLUX.1 "
        "do**: their channels, their sign of zero and the price of DG there were not measured. `dg.dose` and `auto` "
        "measure them."
    )


SAME: Sequence[str] = ("for every prompt", "for every noise", "at every noise level", "in every block")
