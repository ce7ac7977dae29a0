# SPDX-License-Identifier: Apache-2.0
"""The command line's entry: ``python -m named_semaphores``, the installed command, and a zipapp's ``-m named_semaphores.__main__:main``."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # not signal, which imports enum: see _run
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Do what the command line says, and end this process with the exit code (a zipapp's main ignores what this returns)."""
    # Every signal does what it does by default. Python has replaced three, which a command run by us would else inherit, or end with a
    # traceback: SIGINT only if it was not ignored (by nohup, by a shell for a background job), so an ignored one stays so; SIGPIPE and SIGXFSZ
    # always, so that what they were before cannot be told: the default, as for a command that subprocess starts.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)

    words = sys.argv[1:]
    if words[:1] == ["run"]:
        from ._run import run

        code = run(words[1:])
        if code is not None:
            sys.exit(code)
        words = ["run", "--help"]

    try:
        from ._cli import main
    except ImportError as error:  # WASI's Python has no ctypes
        from ._run import complain

        complain(f"this needs ctypes, and this Python cannot import it: {error}")
        sys.exit(2)
    sys.exit(main(words))


if __name__ == "__main__":
    main()
