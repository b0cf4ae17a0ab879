"""`python -m dg_tools.cli`, for launchers that want a module."""

from dg_tools.cli import main

main()
