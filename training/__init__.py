"""The recipe that made `dg_tools/zoo`: data, VAE, DiT, export, evaluate. Not part of the wheel."""

from dg_tools.threads import wait_passively

wait_passively()  # before one of these modules imports torch
