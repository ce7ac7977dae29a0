# SPDX-License-Identifier: Apache-2.0
"""Counted limits that processes share by name on one machine, in pure Python, with the interface of
``threading.Semaphore``.

NamedSemaphore: POSIX named semaphores, which C programs, posix_ipc and others share.
RobustSemaphore: the same on System V semaphores. The kernel gives a dead holder's tokens back.
"""

from __future__ import annotations

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from .core import NamedSemaphore as NamedSemaphore
    from .robust import RobustSemaphore as RobustSemaphore

__version__ = "2.0.0"
__all__ = ["NamedSemaphore", "RobustSemaphore"]


def __getattr__(name: str) -> object:
    # Imported when first used: the command line's run needs neither class, and a program often one.
    if name == "NamedSemaphore":
        from .core import NamedSemaphore

        return globals().setdefault(name, NamedSemaphore)
    if name == "RobustSemaphore":
        from .robust import RobustSemaphore

        return globals().setdefault(name, RobustSemaphore)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
