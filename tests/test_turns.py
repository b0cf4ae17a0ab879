"""The benchmarks' table: variants in turns, ratios within a round."""

from __future__ import annotations

from benchmarks.turns import in_turns, table


def test_variants_take_turns_and_ratios_are_of_one_round(capsys):
    calls = []
    seconds = in_turns({name: lambda name=name: calls.append(name) for name in ("CFG", "DG")}, 2)
    assert calls == ["CFG", "DG"] * 3 and {name: len(own) for name, own in seconds.items()} == {"CFG": 2, "DG": 2}
    assert [len(own) for own in in_turns({"CFG": list}, 2, warm_up=False).values()] == [2]
    rows = table({"CFG": [1.0, 2.0, 8.0], "DG": [2.0, 3.0, 8.0]}, peaks={"CFG": 1.0, "DG": 2.04})
    assert rows["CFG"]["ratio"] == 1 and rows["DG"] == {
        "seconds": 3.0, "ratio": 1.5, "quartiles": [1.25, 1.75], "peak_MiB": 2.0,
    }  # fmt: skip
    assert "1.50 x CFG   (1.25 to 1.75)" in capsys.readouterr().out
