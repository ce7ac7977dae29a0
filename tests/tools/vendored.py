# SPDX-License-Identifier: Apache-2.0
"""Copy the package to app/_vendor under the given folder, and use the copy, alone and beside this
one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

CHECK = """
import sys
from app._vendor.named_semaphores import NamedSemaphore
assert "named_semaphores" not in sys.modules
with NamedSemaphore(sys.argv[2]) as sem:
    assert sem.value == 0
if sys.argv[1] == "beside":
    import named_semaphores
    assert named_semaphores.NamedSemaphore is not NamedSemaphore
    link = named_semaphores.NamedSemaphore(sem.name)
    with sem:
        assert not link.acquire(False)
"""


def main(folder: str) -> int:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    name = f"vendored.{os.getpid()}"
    vendor = os.path.join(folder, "app", "_vendor")
    shutil.rmtree(os.path.join(folder, "app"), ignore_errors=True)
    shutil.copytree(
        os.path.join(root, "named_semaphores"), os.path.join(vendor, "named_semaphores")
    )
    for package in (os.path.dirname(vendor), vendor):
        with open(os.path.join(package, "__init__.py"), "w", encoding="utf-8"):
            pass
    for kind, path in (("alone", folder), ("beside", os.pathsep.join((folder, root)))):
        command = [sys.executable, "-W", "error", "-c", CHECK, kind, name]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=True)
    command = [sys.executable, "-m", "app._vendor.named_semaphores", "run", name, "--", "true"]
    subprocess.run(command, cwd=folder, check=True)
    # The command's end leaves an idle set, which counts as not there.
    return subprocess.run(
        [*command[:3], "unlink", "--unused", "--yes", name], cwd=folder, check=True
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
