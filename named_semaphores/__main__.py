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
    """Do what the command line says, and end this process with the exit code.

    A zipapp's main ignores a return value.
    """
    # All signals get their default action; exec would hand Python's settings on to the command.
    # Python installs a SIGINT handler only if SIGINT was not ignored, so an ignored one (nohup, a
    # shell's background job) stays ignored; not on PyPy, which installs it without a look. Python
    # always ignores SIGPIPE and SIGXFSZ, and their earlier settings are lost: they get the
    # default, as in a child of subprocess (restore_signals).
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    for name in {"SIGPIPE", "SIGXFSZ"}.intersection(dir(_signal)):  # Windows has neither
        _signal.signal(getattr(_signal, name), _signal.SIG_DFL)

    words = sys.argv[1:]
    if words[:1] == ["run"]:
        from .cli.run import run

        code = run(words[1:])
        if code is not None:
            sys.exit(code)
        words = ["run", "--help"]

    try:
        from .cli.parser import main
    except ImportError as error:  # WASI's Python has no ctypes
        from .cli.run import complain

        complain(f"this needs ctypes, and this Python cannot import it: {error}")
        sys.exit(2)
    sys.exit(main(words))


if __name__ == "__main__":
    main()
