"""Two machines in one: network namespaces that a cable (veth) joins, each with its own host name,
processes and loopback. Needs root, Linux and iproute2.

    with TwoMachines() as machines:
        machines.start(0, [sys.executable, "-m", "pseudo_label", ...], log)
        machines.cut()
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ADDRESSES = ("10.177.0.1", "10.177.0.2")
CABLE = "cable"  # each machine's end
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


def why_not() -> str | None:
    """What keeps this system from being two; None if nothing does."""
    if missing := [name for name in ("ip", "unshare") if shutil.which(name) is None]:
        return f"{' and '.join(missing)} not found (Debian: iproute2, util-linux)"
    if os.geteuid():
        return "network namespaces need root"
    name = f"probe-{os.getpid()}"
    tried = [["ip", "netns", "add", name],
             ["ip", "-n", name, "link", "add", CABLE, "type", "veth", "peer", "name", "other"]]
    for command in tried:
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            break
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return f"`{' '.join(command)}`: {ran.stderr.strip()}" if ran.returncode else None


class TwoMachines:
    """Machines 0 and 1, at `ADDRESSES`."""

    def __init__(self) -> None:
        self.names = [f"machine-{os.getpid()}-{number}" for number in (0, 1)]
        self.started: list[subprocess.Popen] = []

    def __enter__(self) -> TwoMachines:
        one, other = self.names
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", CABLE, "netns", one, "type", "veth", "peer", "name", CABLE,
            "netns", other)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            for link in ("lo", CABLE):
                _ip("-n", name, "link", "set", link, "up")
            # a peer that acknowledges nothing is given up after seconds, not after 15 minutes
            subprocess.run(["ip", "netns", "exec", name, "sh", "-c",
                            "echo 4 > /proc/sys/net/ipv4/tcp_retries2"], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.kill()  # `unshare --kill-child`: and all that it started
            process.wait()
        for name in self.names:
            _ip("netns", "delete", name)

    def start(self, machine: int, command: list[str], log: Path, **environment: str) \
            -> subprocess.Popen:
        """A command on a machine; what it prints goes to the end of `log`. To kill what is
        returned is to switch off the machine, as far as this command goes."""
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                 f'hostname {self.names[machine]}; exec "$@"', "sh"]
        with open(log, "a") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[machine], *apart, *command], stdout=out,
                stderr=subprocess.STDOUT, env={**os.environ, "GLOO_SOCKET_IFNAME": CABLE,
                                               "OMP_NUM_THREADS": "1", **environment})
        self.started.append(process)
        return process

    def cut(self) -> None:
        _ip("-n", self.names[1], "link", "set", CABLE, "down")

    def join(self) -> None:
        _ip("-n", self.names[1], "link", "set", CABLE, "up")

    def inside(self, machine: int, make: Callable[[], T]) -> T:
        """What `make` returns, called on a machine: a socket that is made there stays there."""
        found: list[T] = []

        def run() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            descriptor = os.open(f"/run/netns/{self.names[machine]}", os.O_RDONLY)
            assert libc.setns(descriptor, _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
            os.close(descriptor)
            found.append(make())

        thread = threading.Thread(target=run)  # of one thread alone
        thread.start()
        thread.join()
        return found[0]


def _ip(*words: str) -> None:
    ran = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert ran.returncode == 0, f"ip {' '.join(words)}: {ran.stderr}"
