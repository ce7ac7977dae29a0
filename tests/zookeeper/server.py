# SPDX-License-Identifier: Apache-2.0
"""A ZooKeeper server on the loopback: found or installed, started, and removed with its data."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

JAR = "/usr/share/java/zookeeper.jar"  # where Debian's libzookeeper-java has it
PACKAGES = ("libzookeeper-java", "default-jre-headless")
TICK = 500  # ms; the end of a session is noticed up to one later
SESSION = 4.0  # seconds without a word from a client until its session ends; from 2 to 20 ticks


class NoServer(Exception):
    """The one sentence that says why there is no server."""


class Server:
    """A started server with an empty data directory. As root, install what is missing."""

    def __init__(self) -> None:
        missing = not (os.path.exists(JAR) and shutil.which("java"))
        if missing and os.geteuid() == 0 and shutil.which("apt-get"):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
                apt = ["apt-get", "-qq", *command]
                subprocess.run(apt, env=environment, stdout=subprocess.DEVNULL, check=False)
        java = shutil.which("java")
        if not (os.path.exists(JAR) and java):
            packages = " and ".join(PACKAGES)
            raise NoServer(f"No ZooKeeper server: install Debian's {packages}, or run this as root")
        self._folder = Path(tempfile.mkdtemp(prefix="zookeeper-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        main = ("org.apache.zookeeper.server.ZooKeeperServerMain", str(self._folder / "zoo.cfg"))
        self._command = [java, "-Xmx128m", "-XX:+UseSerialGC", "-cp", JAR, *main]
        (self._folder / "zoo.cfg").write_text(
            f"tickTime={TICK}\ndataDir={self._folder}/data\nclientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n"
        )
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers."""
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"srvr")
                    if b"Zookeeper version" in connection.recv(1000):
                        return
            time.sleep(0.05)
        text = (self._folder / "log").read_text(errors="replace")
        self.remove()
        raise NoServer(f"The ZooKeeper server did not start: {text[-2000:]!r}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal; its data stay."""
        self._process.send_signal(number)
        self._process.wait(60)

    def remove(self) -> None:
        """End it, and remove its data."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder)
