"""Prompts with pictures, masks and axes: the embedded models' references and captions, and your own examples."""
