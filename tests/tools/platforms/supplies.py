# SPDX-License-Identifier: Apache-2.0
"""What every runtime is given: a copy of the project, the wheel built from it, and pytest."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runtimes import Shop, Unavailable, cached, run

# By the oldest Python they are for. pip evaluates "only for older Pythons" for the Python that runs
# it, and not every index tells which versions a package is for.
OLDER = ["exceptiongroup", "tomli", "typing_extensions"]
TEST_SETS = {
    "3.9": ["pytest<9", "pytest-timeout", "iniconfig<2.2", *OLDER],
    "3.10": ["pytest", "pytest-timeout", *OLDER],
}


def test_set(python):
    return "3.9" if tuple(python) < (3, 10) else "3.10"


def pip():
    for command in [[sys.executable, "-m", "pip"], ["pip3"], ["pip"]]:
        try:
            run(*command, "--version")
            return command
        except (OSError, subprocess.CalledProcessError):
            pass
    raise Unavailable("needs pip")


def install(directory, *arguments):
    options = ["-q", "--no-compile", "--disable-pip-version-check", "--root-user-action=ignore"]
    run(*pip(), "install", *options, "--target", directory, *arguments)


def install_pytest(directory, python):
    packages = TEST_SETS[python]
    foreign = [
        f"--python-version={python}",
        "--only-binary=:all:",
        "--implementation=py",
        "--abi=none",
        "--platform=any",
    ]
    ready = (directory / "pytest_timeout.py").exists
    cached(directory, " ".join(packages), lambda: install(directory, *foreign, *packages), ready)


def copy(project, destination, cache):
    """Copy what is tried: no history, no caches, no builds."""
    generated = shutil.ignore_patterns(".*", "__pycache__", "build", "dist")

    def unwanted(directory, names):
        return generated(directory, names) | {
            name for name in names if Path(directory, name) == cache
        }

    shutil.rmtree(str(destination), ignore_errors=True)
    shutil.copytree(str(project), str(destination), ignore=unwanted)


def prepare(project, cache):
    """Fill the cache. The wheel is made anew each time; where that fails, the checkout serves."""
    shop = Shop(cache, cache / "project", cache / "packages")
    for python in TEST_SETS:
        install_pytest(shop.packages / python, python)
    copy(project, shop.project, cache)
    wheel = shop.packages / "wheel"
    shutil.rmtree(str(wheel), ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        copy(project, source, cache)
        try:
            install(wheel, "--no-deps", source)
        except subprocess.CalledProcessError as error:
            errors = [line.strip() for line in error.stderr.splitlines() if "Error: " in line] or [
                error.stderr
            ]
            print("NO WHEEL, the checkout is tried instead:", errors[-1], flush=True)
            shutil.copytree(str(source / "named_semaphores"), str(wheel / "named_semaphores"))
    return shop
