"""Kernels that are forked from a process in which the libraries are imported already: a start costs 0.1 s instead of 1 to 3.

Nothing of ours is imported before the fork, no server is reached and no seed is drawn, so that a notebook starts from what a fresh
interpreter would have after the imports. After it comes the one module of ours that puts a figure into words.
"""
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from queue import Empty

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Type

# pyplot is left out: it chooses the notebook's backend when it is imported
LIBRARIES = ("ipykernel.ipkernel", "ipykernel.kernelapp", "IPython.display", "fastcore.test", "fastcore.basics", "numpy", "pandas",
             "matplotlib.figure", "matplotlib.backends.backend_agg", "scipy.signal", "scipy.sparse", "psycopg", "psycopg_pool",
             "pgvector.psycopg", "redis", "alembic.command", "pydantic", "fastapi", "typer", "httpx", "soundfile", "psutil",
             "filelock", "prometheus_client")
FORKS = get_context("forkserver")
INLINE = "module://matplotlib_inline.backend_inline"  # what a kernel names where no environment does

WORDS = "__import__('rap_analyzer.display');"  # a figure gets its description as text, whatever the notebook imports
LOOK_S = 1  # between two looks; a missed reply costs no more
WORTH = 8  # notebooks; importing the libraries takes 4 s, once for each process that starts kernels


def preload(notebooks: int) -> None:
    "Called once in a process that will start this many kernels."
    FORKS.set_forkserver_preload(["_kernels", *(LIBRARIES if notebooks >= WORTH else LIBRARIES[:2])])


def kernel(command: list[str], here: str, env: dict[str, str]) -> None:
    "What a forked process becomes: the kernel that `command` would have started."
    os.setsid(), os.chdir(here)
    os.environ.clear(), os.environ.update(env | {"JPY_PARENT_PID": str(os.getppid())})
    sys.argv[:] = [*command[command.index("-m") + 1:], f"--IPKernelApp.exec_lines={WORDS}"]
    sys.path[:] = [p for p in sys.path if p and Path(p) != Path(__file__).parent]
    if "numpy" in sys.modules: sys.modules["numpy"].random.seed()  # the module `random` does so by itself
    if "matplotlib" in sys.modules:  # it read MPLBACKEND when it was imported, before there was a kernel to name one
        sys.modules["matplotlib"].rcParams["backend"] = env.get("MPLBACKEND", INLINE)
    from ipykernel.kernelapp import launch_new_instance
    launch_new_instance()


class Forked:
    "A forked kernel, with as much of `subprocess.Popen` as a provisioner uses."
    stdin = stdout = stderr = None

    def __init__(self, command: list[str], cwd: str, env: dict[str, str]):
        self.child = FORKS.Process(target=kernel, args=(command, str(cwd), env))
        self.child.start()
        self.pid = self.child.pid

    def poll(self) -> int | None:
        "The exit code, if it has ended."
        return self.child.exitcode

    def wait(self) -> int | None:
        "The exit code, when it has ended."
        self.child.join()
        return self.child.exitcode

    def send_signal(self, number: int) -> None:
        "To the process alone; a provisioner prefers its group."
        with suppress(ProcessLookupError): os.kill(self.pid, number)

    def terminate(self) -> None: self.send_signal(signal.SIGTERM)

    def kill(self) -> None: self.send_signal(signal.SIGKILL)


class Provisioner(LocalProvisioner):
    "Starts the kernel by a fork."
    async def launch_kernel(self, cmd: list[str], cwd: str = "", env: dict[str, str] | None = None, **kwargs: object) -> dict:
        self.process = Forked(cmd, cwd or os.getcwd(), env or dict(os.environ))
        self.pid = self.pgid = self.process.pid  # the first thing that a forked kernel does is to lead a group
        self.cwd = Path(cwd or os.getcwd())
        return self.connection_info


class Channel(AsyncZMQSocketChannel):
    "Looks again every second: nbclient answers an Output widget on the very socket that it polls, and may miss a reply then."
    async def get_msg(self, timeout: float | None = None) -> dict:
        "The next message; raises Empty after `timeout` seconds."
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LOOK_S if until is None else min(LOOK_S, max(0.0, until - time.monotonic()))
            with suppress(Empty): return await super().get_msg(left)
            if until is not None and time.monotonic() >= until: raise Empty


class Client(AsyncKernelClient):
    "The client that papermill is given."
    shell_channel_class = Type(Channel)


class Manager(AsyncKernelManager):
    "The manager that papermill is given."
    client_factory = Type(Client)

    async def _async_pre_start_kernel(self, **kw: object) -> tuple[list[str], dict]:
        if self.provisioner is None:
            self.provisioner = Provisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**kw)
