# SPDX-License-Identifier: Apache-2.0
"""POSIX named semaphores with the API of ``threading.Semaphore``, in pure Python."""

from .core import NamedSemaphore as NamedSemaphore

__version__ = "2.0.0"
__all__ = ["NamedSemaphore"]
