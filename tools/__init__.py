"""What developers run: notebooks regenerated, thumbnails drawn, a wheel checked."""

from dg_tools.threads import wait_passively

wait_passively()  # before one of these modules imports torch
