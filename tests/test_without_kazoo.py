# SPDX-License-Identifier: Apache-2.0
"""The package without kazoo, which only ZooKeeperSemaphore needs."""

from __future__ import annotations

from support import run_python


def test_zookeeper_says_what_to_install():
    code = 'import sys; sys.modules["kazoo"] = None; import named_semaphores.zookeeper'
    done = run_python(code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: ZooKeeperSemaphore needs kazoo: "
        'pip install "named-semaphores[zookeeper]" or "kazoo>=2.11"'
    )
