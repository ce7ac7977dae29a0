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


def main(folder: str) -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    name = f"vendored.{os.getpid()}"
    vendor = os.path.join(folder, "app", "_vendor")
    shutil.rmtree(os.path.join(folder, "app"), ignore_errors=True)
    package = "named_semaphores"
    shutil.copytree(os.path.join(root, package), os.path.join(vendor, package))
    for kind, path in (("alone", folder), ("beside", os.pathsep.join((folder, root)))):
        command = [sys.executable, "-W", "error", "-c", CHECK, kind, name]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=True)
    # The end of run leaves an idle set, which counts as not there.
    for words in (["run", name, "--", "true"], ["unlink", "--unused", "--yes", name]):
        command = [sys.executable, "-m", "app._vendor.named_semaphores", *words]
        subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
