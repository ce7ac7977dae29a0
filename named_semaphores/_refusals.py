# SPDX-License-Identifier: Apache-2.0
"""Explain errors of System V calls, by the sets of this machine."""

from __future__ import annotations

import errno
import os

from ._keys import LONGEST_NAME, key
from ._sysv import refusal

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._sysv import SysV


class Row:
    """One line of /proc/sysvipc/sem: a set of whatever program."""

    def __init__(self, line: str) -> None:
        key, semid, mode, size, uid, gid, _, _, otime, ctime = line.split()
        self.key, self.id, self.mode, self.size = int(key), int(semid), int(mode, 8), int(size)
        self.uid, self.gid = int(uid), int(gid)
        self.created = int(ctime)  # or changed by IPC_SET; seconds since 1970
        self.changed = max(int(otime), int(ctime))


def rows() -> Iterator[Row]:
    """Yield all sets of this IPC namespace. OSError where the system does not list them."""
    with open("/proc/sysvipc/sem", encoding="utf-8") as lines:
        next(lines)
        yield from map(Row, lines)


def failure(library: SysV, error: OSError, name: str) -> Exception:
    """Return the exception for the caller: with the name, and a hint that helps."""
    number = error.errno or 0
    if number == errno.ENOSYS:
        return NotImplementedError(refusal(library.platform))
    hint = error.strerror or _hint(library, number, name)
    return OSError(number, os.strerror(number) + (f" ({hint})" if hint else ""), name)


def _hint(library: SysV, number: int, name: str) -> str | None:
    limits = library.system.limits
    if number in (errno.EACCES, errno.EPERM):
        return _whose(name)
    return {
        errno.ENOENT: "no process has a semaphore of this name open",
        errno.EEXIST: "a process has a semaphore of this name open, or it is persistent",
        errno.ENOSPC: "a limit of System V semaphores is reached: ipcs -s lists them, "
        f"ipcrm removes one, {limits} sets the limit",
        errno.ENOMEM: "the kernel has no memory for it",
        errno.E2BIG: f"{limits} allows too few operations in one call; five are needed",
        errno.ENAMETOOLONG: f"a name has at most {LONGEST_NAME} bytes with its slash, "
        "and fewer on systems with small sets",
        errno.ERANGE: f"at most {library.system.bias - 1} tokens are possible",
        errno.EINVAL: f"{limits} does not allow one process to use more System V semaphores",
    }.get(number)


def _whose(name: str) -> str:
    try:
        for row in rows():
            if row.key == key(name):
                advice = "; mode 0o660 from the start lets a group use it"
                return (
                    f"set {row.id} belongs to user {row.uid}, group {row.gid}, with mode "
                    f"{row.mode:04o}; that user or root can remove it: unlink"
                    + ("" if row.mode & 0o060 == 0o060 else advice)
                )
    except OSError:
        pass
    return "it belongs to another user"


def shown_holders(found: list[tuple[int | None, int]]) -> str:
    """Return the holders for a sentence: "held by 12, 13 (2 tokens)"."""
    return "held by " + ", ".join(
        ("others" if pid is None else str(pid)) + (f" ({tokens} tokens)" if tokens > 1 else "")
        for pid, tokens in found
    )
