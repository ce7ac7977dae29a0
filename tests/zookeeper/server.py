# SPDX-License-Identifier: Apache-2.0
"""A ZooKeeper server on the loopback, for the tests: found or installed, started, and removed with its data.

By hand: ``python3 tests/zookeeper/server.py`` starts one, tells its address, and runs until Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

JAR = "/usr/share/java/zookeeper.jar"  # where Debian's libzookeeper-java has it; the package zookeeper adds scripts to it
TICK = 500  # ms; the end of a session is noticed up to one later
SESSION = (
    2.0  # seconds without a word from a client after which its session ends; from 2 to 20 ticks
)


class NoServer(Exception):
    """The one sentence that says why there is no server."""


def find() -> list[str]:
    """Return the command that starts a server, but for its configuration file. As root, install what is missing."""
    if (
        not (os.path.exists(JAR) and shutil.which("java"))
        and os.geteuid() == 0
        and shutil.which("apt-get")
    ):
        for command in (
            ["update"],
            [
                "install",
                "-y",
                "--no-install-recommends",
                "libzookeeper-java",
                "default-jre-headless",
            ],
        ):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(
                ["apt-get", "-qq", *command],
                env=environment,
                stdout=subprocess.DEVNULL,
                check=False,
            )
    java = shutil.which("java")
    if not (os.path.exists(JAR) and java):
        raise NoServer(
            "There is no ZooKeeper server: install Debian's packages libzookeeper-java and default-jre-headless, or run this as root."
        )
    return [
        java,
        "-Xmx128m",
        "-XX:+UseSerialGC",
        "-cp",
        JAR,
        "org.apache.zookeeper.server.ZooKeeperServerMain",
    ]


class Server:
    """A server with an empty data directory of its own."""

    def __init__(self) -> None:
        self._command = find()
        self._folder = tempfile.mkdtemp(prefix="zookeeper-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        with open(os.path.join(self._folder, "zoo.cfg"), "w", encoding="utf-8") as file:
            file.write(
                f"tickTime={TICK}\ndataDir={self._folder}/data\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
                "maxClientCnxns=0\nadmin.enableServer=false\n"
            )

    def start(self) -> None:
        """Start it, and return when it answers."""
        with open(os.path.join(self._folder, "log"), "ab") as log:
            command = [*self._command, os.path.join(self._folder, "zoo.cfg")]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"srvr")
                    if b"Zookeeper version" in connection.recv(1000):
                        return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                with open(
                    os.path.join(self._folder, "log"), encoding="utf-8", errors="replace"
                ) as file:
                    raise NoServer(f"The ZooKeeper server did not start: {file.read()[-2000:]!r}")
            time.sleep(0.05)

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal; its data stay."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        """End it, and remove its data."""
        try:
            self.stop(signal.SIGKILL)
        finally:
            shutil.rmtree(self._folder)


def main() -> str | None:
    try:
        server = Server()
    except NoServer as error:
        return str(error)
    try:
        server.start()
        print(server.address, flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    except NoServer as error:
        return str(error)
    finally:
        server.remove()
    return None


if __name__ == "__main__":
    sys.exit(main())
