"""Runs a command whose notebooks' kernels are forked from this process, which has imported the packages once.

    python tests/kernels/server.py python -m pytest --nbval notebooks --nbval-kernel-name forked

13 notebooks are run twice; each kernel alone would import torch, diffusers and nnsight anew, some seconds every time.
Nothing is computed here before a fork, so a kernel differs from a fresh one by what is imported, and by nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

PACKAGES = ("torch", "diffusers", "transformers", "nnsight", "matplotlib", "ipykernel.kernelapp", "dg_tools")
MODULES = (  # what diffusers, nnsight and dg_tools import on first use
    "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
    "diffusers.pipelines.flux.pipeline_flux",
    "nnsight.modeling.language",
    "matplotlib.figure",
    "plotly.graph_objects",
    "dg_tools.plots",
    "dg_tools.experiments",
    "dg_tools.metrics",
)
LONGEST = 65536  # bytes of a request


def preload() -> None:
    """Import what notebooks import. A module that is not there is the notebook's own affair."""
    for name in (*PACKAGES, *MODULES):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    import pandas

    pandas.set_option("display.max_columns", 20)  # pandas' own choice outside of a terminal; it takes this for one


def kernel(connection: socket.socket, request: dict, files: list[int]) -> None:
    """In the forked process: become the kernel that was asked for. Does not return."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.pop("JPY_PARENT_PID", None)  # that process is not this one's parent
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.sendall(str(os.getpid()).encode())

    def watch() -> None:
        connection.recv(1)  # returns when the process that stands for this kernel is gone
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", "-f", request["file"]]
    sys.path[0] = ""  # the notebook's folder, as in a kernel of its own
    IPKernelApp.launch_instance(argv=sys.argv[1:])
    os._exit(0)


def serve(listening: socket.socket, command: int) -> int:
    """Fork kernels until the command ends; returns its exit code."""
    while True:
        if select.select([listening], [], [], 0.2)[0]:
            connection, _ = listening.accept()
            message, files, _, _ = socket.recv_fds(connection, LONGEST, 3)
            if os.fork() == 0:
                try:
                    listening.close()
                    kernel(connection, json.loads(message), files)
                finally:
                    os._exit(1)  # never the server's own way on
            for file in files:
                os.close(file)
            connection.close()
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == command:
                return os.waitstatus_to_exitcode(ended[1])


def main() -> int:
    """Run the command beside the server."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        path = str(Path(folder) / "kernels")
        listening.bind(path)
        listening.listen(64)  # the command may begin at once: whoever comes early waits
        jupyter = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("JUPYTER_PATH", "")])
        environment = {**os.environ, "DG_TOOLS_KERNELS": path, "JUPYTER_PATH": jupyter}
        command = os.posix_spawnp(sys.argv[1], sys.argv[1:], environment)
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel sets it
        preload()
        return serve(listening, command)


if __name__ == "__main__":
    sys.exit(main())
