# SPDX-License-Identifier: Apache-2.0
"""Print, as JSON, what the Python that runs this is. It fails where there is no ctypes."""

import ctypes  # noqa: F401
import glob
import json
import os
import platform
import subprocess
import sys
import sysconfig


def libc():
    if sys.platform == "emscripten":  # whose confstr claims to be an old glibc
        return "Emscripten"
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, OSError, ValueError):
        pass  # not glibc
    # musl tells its version only when its loader is run without arguments.
    for loader in glob.glob("/lib/ld-musl-*"):
        said = subprocess.run([loader], stderr=subprocess.PIPE, check=False, text=True).stderr
        return "musl " + said.partition("Version ")[2].partition("\n")[0]
    return "?"


def version():
    text = platform.python_version()
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        text += " free-threaded"
    if hasattr(sys, "pypy_version_info"):
        text = "PyPy {}.{}.{} ({})".format(*sys.pypy_version_info[:3], text)
    return text


# platform.machine() names the kernel's CPU, which for i386 is another than the program's.
multiarch = sysconfig.get_config_var("MULTIARCH") or platform.machine()
facts = {
    "python": sys.version_info[:2],
    "version": version(),
    "libc": libc(),
    "cpu": multiarch.split("-")[0],
}
print(json.dumps(facts))
