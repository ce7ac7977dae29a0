# SPDX-License-Identifier: Apache-2.0
"""A semaphore as one would write it with ctypes. Nothing here is wrong as long as no signal, no thread and no other process comes between."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

_lib = ctypes.CDLL(None, use_errno=True)


class _timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_lib.sem_open.restype = ctypes.c_void_p
for _name in ("sem_close", "sem_wait", "sem_trywait", "sem_post"):
    getattr(_lib, _name).argtypes = [ctypes.c_void_p]
_lib.sem_getvalue.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
_lib.sem_timedwait.argtypes = [ctypes.c_void_p, ctypes.POINTER(_timespec)]


def _check(rc: int) -> None:
    if rc:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Naive:
    handle: Any = None

    def __init__(self, name: str, value: int, create: bool) -> None:
        self.name, self.created = name.encode(), create
        flags = os.O_CREAT | os.O_EXCL if create else 0
        self.handle = _lib.sem_open(self.name, flags, ctypes.c_uint(0o600), ctypes.c_uint(value))
        _check(not self.handle)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if not blocking:
            return not _lib.sem_trywait(self.handle)
        if timeout is None:
            while _lib.sem_wait(self.handle):
                pass
            return True
        end = time.time() + timeout
        return not _lib.sem_timedwait(self.handle, _timespec(int(end), int(end % 1 * 1e9)))

    def release(self) -> None:
        _check(_lib.sem_post(self.handle))

    @property
    def value(self) -> int:
        value = ctypes.c_int()
        _check(_lib.sem_getvalue(self.handle, value))
        return value.value

    def __enter__(self) -> Naive:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def unlink(self) -> None:
        _check(_lib.sem_unlink(self.name))

    def close(self) -> None:
        if self.handle:
            _lib.sem_close(self.handle)
            self.handle = None
            if self.created:
                _lib.sem_unlink(self.name)

    __del__ = close
