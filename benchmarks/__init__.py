"""What things cost, measured: `make bench`, and what takes longer."""

from dg_tools.threads import wait_passively

wait_passively()  # before one of these modules imports torch
