"""The recipe of a model at 128 px: objects on procedural materials, 16 x 16 tokens. Not part of the wheel."""
