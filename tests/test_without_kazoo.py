# SPDX-License-Identifier: Apache-2.0
"""The package without kazoo, which only ZooKeeperSemaphore needs."""

from __future__ import annotations

import os
import pkgutil
import shutil

import pytest
from support import run_python

import named_semaphores

WITHOUT = 'import sys\nsys.modules["kazoo"] = None\n'


@pytest.mark.parametrize("where", ["installed", "copied"])
def test_zookeeper_says_what_to_install(tmp_path, where):
    package = "named_semaphores"
    if where == "copied":
        shutil.copytree(
            os.path.dirname(named_semaphores.__file__),
            tmp_path / "app" / "_vendor" / "named_semaphores",
        )
        package = "app._vendor.named_semaphores"
    code = f"{WITHOUT}sys.path.insert(0, {str(tmp_path)!r})\n"
    code += f"from {package}.zookeeper import ZooKeeperSemaphore"
    done = run_python(code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: ZooKeeperSemaphore needs kazoo: "
        'pip install "named-semaphores[zookeeper]" or "kazoo>=2.11"'
    )


def test_no_other_module_needs_it():
    others = [
        name
        for _, name, _ in pkgutil.iter_modules(named_semaphores.__path__)
        if name not in ("zookeeper", "__main__")
    ]
    assert "core" in others
    code = f"{WITHOUT}import importlib\nfor name in {others}:\n"
    code += "    importlib.import_module('named_semaphores.' + name)\n"
    done = run_python(f"{code}assert 'named_semaphores.zookeeper' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")
