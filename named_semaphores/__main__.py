# SPDX-License-Identifier: Apache-2.0
"""The command line's entry: ``python -m named_semaphores``, the installed command, and a zipapp's
``-m named_semaphores.__main__:main``.
"""

from __future__ import annotations

# Not signal, which imports enum.
import _signal  # type: ignore[import-not-found,unused-ignore]
import sys

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Do what the command line says, and exit: a zipapp's main ignores a return value."""
    # All signals get their default action; exec would hand Python's settings on to the command.
    # An ignored SIGINT (nohup, a shell's background job) stays ignored, but not on PyPy. Python
    # always ignores SIGPIPE and SIGXFSZ, and their earlier settings are lost.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    for name in {"SIGPIPE", "SIGXFSZ"}.intersection(dir(_signal)):  # Windows has neither
        _signal.signal(getattr(_signal, name), _signal.SIG_DFL)

    try:
        from .cli import parser

        sys.exit(parser.main(sys.argv[1:]))
    except ImportError as error:  # WASI's Python has no ctypes
        print(f"named-semaphores needs ctypes, and cannot import it: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
