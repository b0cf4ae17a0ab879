"""Prompts with pictures, masks and axes: the embedded models' references, captions, and a reader's own examples."""
