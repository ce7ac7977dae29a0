# SPDX-License-Identifier: Apache-2.0
"""Policy: whose a name is, so that clean-up removes what is ours, all of it, and nothing else.

A handle that removes its name when it goes has a claim to it. The claim is made before the name is, and stays here until it is settled. So
the name goes even if a signal's exception cut a constructor or a destructor short: when the next claim is made, or at the interpreter's end.
It goes with the claim's owner, which the NamedSemaphore has and each with statement inside it: in "with NamedSemaphore("jobs"):" nothing
else keeps the object.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
import weakref

from . import _shm
from ._errors import oserror, warn_of_name
from ._opening import is_handle, try_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._libc import Libc

_claims: set[Claim] = set()
_due: list[Claim] = []  # those whose owner is gone
_process = 0  # the one whose end settles its claims


class Owner:
    """What a name lives as long as."""

    __slots__ = ("__weakref__", "claim", "opened")

    def __init__(self, libc: Libc, name: str) -> None:
        self.claim: Claim | None = Claim(self, libc, name)
        self.opened = self.claim.opened  # takes what Libc.open gives

    def settle(self) -> None:
        """Remove the name if it is ours. OSError if the system refuses."""
        claim = getattr(self, "claim", None)  # None: it is settled, or a signal came before it was made
        if claim is not None:
            claim.settle()
            self.claim = None  # so that it does not become due

    def __del__(self) -> None:
        try:
            self.settle()
        except OSError as error:
            warn_of_name(error)


class Claim(weakref.ref):  # type: ignore[type-arg]
    """The right and the duty to remove a name. Refers weakly to its owner."""

    __slots__ = ("libc", "name", "opened", "pid", "turn")

    def __new__(cls, owner: Owner, libc: Libc, name: str) -> Claim:
        # The callback is C code: no signal keeps it from making the claim due.
        return super().__new__(cls, owner, _due.append)

    def __init__(self, owner: Owner, libc: Libc, name: str) -> None:
        super().__init__(owner, _due.append)  # type: ignore[call-arg]
        self.libc = libc
        self.name = name
        self.opened: list[Any] = []
        self.pid = os.getpid()
        self.turn = [True]  # who pops it settles
        _settle_due()
        _settle_all_at_exit()
        _claims.add(self)

    # Those of weakref.ref are its owner's.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def settle(self) -> None:
        """Remove the name if it is ours. OSError if the system refuses."""
        turn: list[bool] = []
        try:
            try:
                turn.extend(map(self.turn.pop, (0,)))
            except IndexError:  # it is done, or another thread is at it
                return
            self._remove_if_ours()
        except PermissionError:  # nor will it be allowed later
            _claims.discard(self)
            raise
        except BaseException:
            self.turn.extend(turn)
            raise
        _claims.discard(self)
        self.opened = []  # the collector may have made this due before its owner settled it, and so keep it

    def settle_or_warn(self) -> None:
        """Settle where nobody could catch an exception."""
        try:
            self.settle()
        except OSError as error:
            warn_of_name(error)

    def _remove_if_ours(self) -> None:
        # A child of fork has its parent's claims; the names are its parent's.
        if self.pid == os.getpid() and self.opened and is_handle(self.opened[0]) and self._is_still_ours():
            error = self.libc.unlink(os.fsencode(self.name))
            if error not in (0, errno.ENOENT):
                raise oserror(error, self.libc, self.name)

    def _is_still_ours(self) -> bool:
        """Return whether the name stands for the semaphore it stood for. True where the system cannot tell (macOS, NetBSD, OpenBSD)."""
        if not self.libc.same_address:
            return True
        again = try_open(self.libc, self.name, [])
        if is_handle(again):
            return int(again) == int(self.opened[0])
        if again == errno.ENOENT:
            return False
        # Its mode keeps us from opening it, or descriptors or musl's 256 places are used up.
        file = _shm.path(self.libc, self.name)
        if file is not None and self.libc.platform.startswith("linux"):
            try:
                return _shm.is_file_of(file, self.opened[0])
            except OSError:  # not even /proc can be read
                pass
        raise oserror(again, self.libc, self.name)


def _settle_due() -> None:
    while True:
        try:
            claim = _due.pop()
        except IndexError:  # none, or another thread has the last
            return
        claim.settle_or_warn()


def _settle_all_at_exit() -> None:
    """See to it that this process settles its claims at its end, after the children of multiprocessing, who may need the names."""
    global _process
    if _process == os.getpid():
        return
    # Of two functions the one registered later runs earlier: atexit is right if multiprocessing comes later, or not at all. A child of
    # multiprocessing leaves without atexit (before 3.14), but not without these finalizers; those below 0 come last.
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        atexit.register(_settle_all)
    else:
        util.Finalize(None, _settle_all, exitpriority=-100)
    _process = os.getpid()


def _settle_all() -> None:
    for claim in list(_claims):
        if not claim.turn:  # a signal's exception left it so; at the end there is no other thread to wait for
            claim.turn.append(True)
        claim.settle_or_warn()
