"""The colours of every figure and card: told apart under every common colour blindness, and on paper.

A test simulates red-, green- and blue-blind eyes. No series is told by its colour alone: its name stands beside it.
"""

from __future__ import annotations

INK = "#22313f"  # words
MASSIVE = "#c0392b"  # what a figure is about: the massive channels
QUIET = "#7f8c8d"  # what stands beside it: controls, other channels
POINT = "#1f6fb2"  # the current place
SERIES = (MASSIVE, POINT, "#c98a00", "#003f5c", "#5dade2", "#5d4037")  # several of a kind, such as channels
READABLE = {"#c98a00": "#8f6200", "#5dade2": "#2878ad"}  # of a colour that is too light for words, its darker shade
