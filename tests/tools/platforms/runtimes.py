# SPDX-License-Identifier: Apache-2.0
"""The Pythons the project can be tried on: how each is had, and how a program is started on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
one_at_a_time = threading.RLock()  # apt wants it so, and several runtimes share a root


class Unavailable(Exception):
    """This machine cannot have it; the text says why."""


class Shop(NamedTuple):
    """The folders in use."""

    cache: Path
    project: Path  # the copy of the project that is tried
    packages: Path  # its wheel, and pytest by version of Python


class Place(NamedTuple):
    """A Python that is there."""

    start: list[str]  # the command line up to the interpreter; its arguments follow
    project: Path  # the shop's folders, under the names this Python sees
    packages: Path

    def script(self, name, *arguments):
        """The command that runs a script of this folder."""
        return [
            *self.start,
            str(self.project / HERE.relative_to(PROJECT) / name),
            *map(str, arguments),
        ]

    def probe(self):
        """What this Python is, as probe.py tells it, or None where it does not run."""
        try:
            return json.loads(run(*self.script("probe.py")).stdout)
        except (OSError, subprocess.CalledProcessError):
            return None


class Runtime(NamedTuple):
    name: str
    how: str
    get: Callable[[Shop], Place]
    emulated: bool = False
    has_semaphores: bool = True


def run(*command, **options):
    words = [str(word) for word in command]
    return subprocess.run(
        words, check=True, text=True, stdin=subprocess.DEVNULL, capture_output=True, **options
    )


def need(packages):
    """Make sure of commands, given with their Debian packages, which root and apt can install."""
    with one_at_a_time:
        missing = sorted(
            {package for command, package in packages.items() if not shutil.which(command)}
        )
        if missing and os.geteuid() == 0 and shutil.which("apt-get"):
            print("installing", *missing, flush=True)
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            run("apt-get", "-qq", "update", env=environment)
            run("apt-get", "-qq", "install", "--no-install-recommends", *missing, env=environment)
    missing = [command for command in packages if not shutil.which(command)]
    if missing:
        raise Unavailable("needs " + ", ".join(missing))


def cached(directory, recipe, build, ready):
    """Fill the directory by ``build()``, unless the same recipe has and ``ready()`` agrees."""
    stamp = directory / ".recipe"
    with one_at_a_time:
        if stamp.exists() and stamp.read_text() == recipe and ready():
            return
        print("standing up", directory.name, flush=True)
        began = time.monotonic()
        shutil.rmtree(str(directory), ignore_errors=True)
        directory.mkdir(parents=True)
        build()
        if not ready():
            raise Unavailable(f"what was built in {directory.name} does not work here")
        stamp.write_text(recipe)
        print(f"{directory.name} stands, {time.monotonic() - began:.0f} s", flush=True)


def found(version):
    """The newest CPython of this version that pyenv has, or the one on PATH."""

    def get(shop):
        versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
        in_pyenv = [
            path for path in versions.glob(version + ".*") if path.name.rpartition(".")[2].isdigit()
        ]
        in_pyenv.sort(key=lambda path: int(path.name.rpartition(".")[2]), reverse=True)
        for python in [
            *(path / "bin" / "python3" for path in in_pyenv),
            shutil.which("python" + version),
        ]:
            place = Place([str(python)], shop.project, shop.packages)
            if (
                python and place.probe()
            ):  # pyenv's shims on PATH are there for every version, and may not run
                return place
        raise Unavailable("neither in pyenv's folder nor on PATH")

    return get


def debian(name, arch, suite, python, packages="", cpu="native"):
    """A Python in a Debian root; several may share one. ``cpu`` is qemu's name, or "native"."""

    def get(shop):
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        need({"mmdebstrap": "mmdebstrap", "arch-test": "arch-test"})
        if cpu != "native":
            need({f"qemu-{cpu}-static": "qemu-user-static"})
        root = shop.cache / name
        recipe = [arch, suite, str(root), packages]
        enter = [
            "sh",
            str(HERE / "enter.sh"),
            str(root),
            cpu,
            str(shop.project),
            str(shop.packages),
        ]

        def place(python):
            return Place([*enter, python], Path("/mnt/project"), Path("/mnt/packages"))

        script = HERE / "debian.sh"
        cached(
            root,
            f"{recipe}\n{script.read_text()}",
            lambda: run("sh", script, "root", *recipe),
            place("python3").probe,
        )
        if not place(python).probe():
            raise Unavailable(f"{python} of Debian's {suite} does not work")
        return place(python)

    return get


def built(name, libc, *options):
    """CPython 3.13 from source."""

    def get(shop):
        need({"gcc": "gcc", "make": "make", "apt-get": "apt", "xz": "xz-utils"})
        if libc == "musl":
            need({"musl-gcc": "musl-tools"})
        directory = shop.cache / name
        recipe = [str(directory), libc, *options]
        place = Place([str(directory / "python" / "bin" / "python3")], shop.project, shop.packages)
        script = HERE / "build_python.sh"
        cached(
            directory,
            f"{recipe}\n{script.read_text()}",
            lambda: run("sh", script, *recipe),
            place.probe,
        )
        return place

    return get


def pyodide(shop):
    """CPython in WebAssembly, which has no named semaphores."""
    need({"node": "nodejs", "npm": "npm"})
    directory = shop.cache / "pyodide"
    start = [
        "env",
        "PYODIDE=" + str(directory),
        "node",
        str(HERE / "pyodide.mjs"),
        str(shop.project),
        str(shop.packages),
    ]
    place = Place(start, Path("/mnt/project"), Path("/mnt/packages"))
    cached(
        directory,
        "pyodide",
        lambda: run("npm", "install", "--silent", "--prefix", directory, "pyodide"),
        place.probe,
    )
    return place


def sid(name, python):
    return Runtime(
        name,
        "Debian sid",
        debian("sid", "amd64", "sid", python, "python3.13,python3.14,python3.15,pypy3"),
    )


def emulated(name, cpu):
    return Runtime(
        name, "Debian stable, qemu", debian(name, name, "stable", "python3", cpu=cpu), emulated=True
    )


HOST = Runtime(
    "host",
    "the Python this is run with",
    lambda shop: Place([sys.executable], shop.project, shop.packages),
)
RUNTIMES = [
    *(
        Runtime("cpython" + version, "pyenv's, or on PATH", found(version))
        for version in ["3.9", "3.10", "3.11", "3.12", "3.13"]
    ),
    sid("cpython3.13-sid", "python3.13"),
    sid("cpython3.14-sid", "python3.14"),
    sid("cpython3.15-sid", "python3.15"),
    Runtime("cpython3.13t", "built from source", built("cpython3.13t", "glibc", "--disable-gil")),
    Runtime("cpython3.13-musl", "built from source", built("cpython3.13-musl", "musl")),
    Runtime("pypy3", "Debian 12", debian("bookworm", "amd64", "bookworm", "pypy3", "pypy3")),
    sid("pypy3-sid", "pypy3"),
    Runtime("i386", "Debian 12", debian("i386", "i386", "bookworm", "python3")),
    emulated("armhf", "arm"),
    emulated("arm64", "aarch64"),
    emulated("s390x", "s390x"),
    Runtime("pyodide", "npm", pyodide, has_semaphores=False),
]
BY_NAME = {runtime.name: runtime for runtime in [HOST, *RUNTIMES]}
