# SPDX-License-Identifier: Apache-2.0
"""The Pythons the project can be tried on: how each is had, and how a program is started on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
CACHE = PROJECT / ".platforms"
COPY = CACHE / "project"  # what is tried
PACKAGES = CACHE / "packages"  # its wheel, and pytest by version of Python


class Unavailable(Exception):
    """This machine cannot have it; the text says why."""


class Place(NamedTuple):
    """A Python that is there."""

    start: list[str]  # the command line up to the interpreter; its arguments follow
    # The folders, under the names that this Python sees.
    project: Path = COPY
    packages: Path = PACKAGES

    def script(self, name):
        """Return the command that runs a script of this folder."""
        return [*self.start, str(self.project / HERE.relative_to(PROJECT) / name)]

    def probe(self):
        """Return what this Python is, as probe.py tells it, or None where it does not run."""
        try:
            return json.loads(run(*self.script("probe.py")).stdout)
        except (OSError, subprocess.CalledProcessError):
            return None


class Runtime(NamedTuple):
    name: str
    get: Callable[[], Place]
    emulated: bool = False
    has_semaphores: bool = True


def run(*command, **options):
    words = [str(word) for word in command]
    return subprocess.run(
        words, check=True, text=True, stdin=subprocess.DEVNULL, capture_output=True, **options
    )


def need(packages):
    """Make sure of commands, given with their Debian packages, which root and apt can install."""
    missing = {command for command in packages if not shutil.which(command)}
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        names = sorted({packages[command] for command in missing})
        print("installing", *names, flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "-qq", "update", env=environment)
        run("apt-get", "-qq", "install", "--no-install-recommends", *names, env=environment)
        missing = {command for command in packages if not shutil.which(command)}
    if missing:
        raise Unavailable("needs " + ", ".join(sorted(missing)))


def cached(directory, recipe, build, ready):
    """Fill the directory by ``build()``, unless the same recipe has and ``ready()`` agrees."""
    stamp = directory / ".recipe"
    if stamp.exists() and stamp.read_text() == recipe and ready():
        return
    print("standing up", directory.name, flush=True)
    began = time.monotonic()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    build()
    if not ready():
        raise Unavailable(f"what was built in {directory.name} does not work here")
    stamp.write_text(recipe)
    print(f"{directory.name} stands, {time.monotonic() - began:.0f} s", flush=True)


def by_script(directory, name, arguments, ready):
    """Fill the directory by a shell script of this folder, which gets the arguments."""
    script = HERE / name
    recipe = f"{arguments}\n{script.read_text()}"
    cached(directory, recipe, lambda: run("sh", script, *arguments), ready)


def found(version):
    """A CPython of this version that pyenv has, or the one on PATH."""

    def get():
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        in_pyenv = sorted(pyenv.glob(f"versions/{version}.*[0-9]/bin/python3"))
        # pyenv's shims on PATH are there for every version, and may not run.
        for python in [*reversed(in_pyenv), "python" + version]:
            place = Place([str(python)])
            if place.probe():
                return place
        raise Unavailable("neither in pyenv's folder nor on PATH")

    return get


def mounted(*start):
    """A Python that has the folders in /mnt."""
    return Place([*map(str, start)], Path("/mnt/project"), Path("/mnt/packages"))


def debian(name, arch, suite, python, packages="", cpu="native"):
    """A Python in a Debian root; several may share one. ``cpu`` is qemu's name, or "native"."""

    def get():
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        need({"mmdebstrap": "mmdebstrap", "arch-test": "arch-test"})
        if cpu != "native":
            need({f"qemu-{cpu}-static": "qemu-user-static"})
        root = CACHE / name
        enter = ["sh", HERE / "enter.sh", root, cpu, COPY, PACKAGES]
        recipe = ["root", arch, suite, str(root), packages]
        by_script(root, "debian.sh", recipe, mounted(*enter, "python3").probe)
        place = mounted(*enter, python)
        if not place.probe():
            raise Unavailable(f"{python} of Debian's {suite} does not work")
        return place

    return get


def built(name, libc, *options):
    """CPython 3.13 from source."""

    def get():
        need({"gcc": "gcc", "make": "make", "apt-get": "apt", "xz": "xz-utils"})
        if libc == "musl":
            need({"musl-gcc": "musl-tools"})
        directory = CACHE / name
        place = Place([str(directory / "python" / "bin" / "python3")])
        by_script(directory, "build_python.sh", [str(directory), libc, *options], place.probe)
        return place

    return get


def pyodide():
    """CPython in WebAssembly, which has no named semaphores."""
    need({"node": "nodejs", "npm": "npm"})
    directory = CACHE / "pyodide"
    start = ["env", f"PYODIDE={directory}", "node", HERE / "pyodide.mjs", COPY, PACKAGES]
    place = mounted(*start)
    install = ("npm", "install", "--silent", "--prefix", directory, "pyodide")
    cached(directory, "pyodide", lambda: run(*install), place.probe)
    return place


def sid(name, python):
    packages = "python3.13,python3.14,python3.15,pypy3"
    return Runtime(name, debian("sid", "amd64", "sid", python, packages))


def emulated(name, cpu):
    return Runtime(name, debian(name, name, "stable", "python3", cpu=cpu), emulated=True)


HOST = Runtime("host", lambda: Place([sys.executable]))
RUNTIMES = [
    *(
        Runtime("cpython" + version, found(version))
        for version in "3.9 3.10 3.11 3.12 3.13".split()
    ),
    sid("cpython3.13-sid", "python3.13"),
    sid("cpython3.14-sid", "python3.14"),
    sid("cpython3.15-sid", "python3.15"),
    Runtime("cpython3.13t", built("cpython3.13t", "glibc", "--disable-gil")),
    Runtime("cpython3.13-musl", built("cpython3.13-musl", "musl")),
    Runtime("pypy3", debian("bookworm", "amd64", "bookworm", "pypy3", "pypy3")),
    sid("pypy3-sid", "pypy3"),
    Runtime("i386", debian("i386", "i386", "bookworm", "python3")),
    emulated("armhf", "arm"),
    emulated("arm64", "aarch64"),
    emulated("s390x", "s390x"),
    Runtime("pyodide", pyodide, has_semaphores=False),
]
BY_NAME = {runtime.name: runtime for runtime in [HOST, *RUNTIMES]}
