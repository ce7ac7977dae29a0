# SPDX-License-Identifier: Apache-2.0
"""What every runtime is given: a copy of the project, the wheel built from it, and pytest."""

import shutil
import subprocess
import sys

from runtimes import COPY, PACKAGES, PROJECT, Unavailable, cached, run

# By the oldest Python they are for. pip evaluates "only for older Pythons" for the Python that runs
# it, and not every index tells which versions a package is for.
OLDER = ["exceptiongroup", "tomli", "typing_extensions"]
TEST_SETS = {
    "3.9": ["pytest<9", "pytest-timeout", "iniconfig<2.2", *OLDER],
    "3.10": ["pytest", "pytest-timeout", *OLDER],
}


def test_set(python):
    return "3.9" if tuple(python) < (3, 10) else "3.10"


def install(directory, *arguments):
    options = ["-q", "--no-compile", "--disable-pip-version-check", "--root-user-action=ignore"]
    for pip in ([sys.executable, "-m", "pip"], ["pip3"]):
        try:
            run(*pip, "--version")
        except (OSError, subprocess.CalledProcessError):
            continue
        run(*pip, "install", *options, "--target", directory, *arguments)
        return
    raise Unavailable("needs pip")


def install_pytest(python):
    directory, packages = PACKAGES / python, TEST_SETS[python]
    foreign = ["--only-binary=:all:", "--implementation=py", "--abi=none", "--platform=any"]
    foreign.append(f"--python-version={python}")
    ready = (directory / "pytest_timeout.py").exists
    cached(directory, " ".join(packages), lambda: install(directory, *foreign, *packages), ready)


def prepare():
    """Fill the cache. The wheel is made anew each time."""
    for python in TEST_SETS:
        install_pytest(python)
    wheel, source = PACKAGES / "wheel", COPY.with_name("source")
    # No history, no caches, no builds.
    generated = shutil.ignore_patterns(".*", "__pycache__", "build", "dist")
    for folder in (COPY, source):  # pip may build in the second
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PROJECT, folder, ignore=generated)
    shutil.rmtree(wheel, ignore_errors=True)
    install(wheel, "--no-deps", source)
    shutil.rmtree(source)
