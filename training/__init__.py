"""The recipe that made `dg_tools/zoo`: data, VAE, DiT, export, evaluate. Not part of the wheel."""
