"""What the model never heard is said, with what it did hear; the rest of what people type is read with care."""

from __future__ import annotations

import pytest

import dg_tools as dg
from dg_tools.datasets.captions import advice, check_prompt, check_seed, nearest_captions, unknown_words
from dg_tools.datasets.references import caption, references


def test_every_caption_of_training_is_known():
    known = references()
    every = [
        caption(n, s, b) for n in known.names for s in (None, "flat", "shaded") for b in (None, *known.backgrounds)
    ]
    assert not [c for c in every[::7] if unknown_words(c, known)]


def test_strange_words_and_their_neighbours():
    known = references()
    assert unknown_words("Red appel, flat on blue", known) == ["appel"]
    assert "red apple" in nearest_captions("red appel on blue", known)
    assert unknown_words("a photograph of red apple", known)[0] == "a"
    assert nearest_captions("xqzj", known) == []


def test_advice_for_the_embedded_model_only(dits):
    dit = dg.load()
    assert advice(dit, "red apple on blue") is None
    said = advice(dit, "red appel")
    assert said is not None and "'appel'" in said and "red apple" in said
    assert "Nearest known captions" in (advice(dit, "xqzj") or "")
    assert advice(dits("sd3"), "red appel") is None  # nobody knows what it saw


def test_prompt_and_seed():
    assert check_prompt(" owl ") == "owl" and check_seed(" 42 ") == 42 == check_seed(42)
    with pytest.raises(ValueError, match="the prompt is empty"):
        check_prompt("  ")
    for wrong in ("", "abc", "-1", "1.5", "9" * 30):
        with pytest.raises(ValueError, match="not a whole number"):
            check_seed(wrong)
