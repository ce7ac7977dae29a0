# SPDX-License-Identifier: Apache-2.0
"""``python -m named_semaphores``: the command line without an installation."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Ctrl-C ends this as any program. A KeyboardInterrupt would show a traceback while modules are imported, or be swallowed there.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from ._cli import main

    raise SystemExit(main())
