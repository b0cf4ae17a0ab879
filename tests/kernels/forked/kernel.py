"""A notebook's kernel for the tests: asks the server beside it to fork one, and stands for it until it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Hand over where the notebook is and how it is reached; pass signals on."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["DG_TOOLS_KERNELS"])
        request = {"file": sys.argv[1], "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        pid = int(server.recv(64))
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda number, frame: os.kill(pid, number))
        server.recv(1)  # nothing comes: it returns when the kernel has ended


if __name__ == "__main__":
    main()
