# SPDX-License-Identifier: Apache-2.0
"""The running system's library through ctypes alone, as on an interpreter without SemLock."""

from __future__ import annotations

from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc, load


class CtypesSemaphore(NamedSemaphore):
    _libc = Libc(load())
