"""Prompts with pictures, masks and axes of any origin: the embedded references, captions, pictures of your own."""
