# SPDX-License-Identifier: Apache-2.0
"""RobustSemaphore: the kernel gives a dead holder's tokens back. ``_set`` says how."""

from __future__ import annotations

import os
import warnings
from functools import partial
from itertools import repeat, starmap
from time import sleep

from . import _base, _several
from ._base import DEFAULT_MODE, ONE, Flags, Hold, Semaphore
from ._cleanup import Owner
from ._common import check_integer, check_mode, check_name, check_wait, without_ctypes

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from ._set import Set
    from ._sysv import SysV


try:
    from . import _set
    from ._handles import Ended, Handle, open_handle
    from ._set import NUMBER, NUMBERS, Holder
    from ._sets import held_by
    from ._sysv import NOWAIT, UNDO, system
except ImportError as error:
    system = without_ctypes(error)  # type: ignore[assignment]


def _warn(text: str) -> None:
    # For whoever calls the constructor, which calls Set.resize. No partial: PyPy's has a frame.
    warnings.warn(text, RuntimeWarning, stacklevel=4)


class RobustSemaphore(Semaphore):
    """A limit that processes of one machine share by name; a dead process's tokens are freed.

        with RobustSemaphore("builds", 3):
            ...  # at most three of these at once, in whatever process

    The interface is that of ``threading.BoundedSemaphore``, on a System V semaphore. Its names are
    separate from those of NamedSemaphore and other POSIX semaphores.

    A token belongs to the process that took it, and any of its threads may release it. When the
    process ends, by whatever signal, the kernel frees the token at once. A child of fork holds
    nothing. A program executed in the process's place (``os.execvp``) keeps the tokens.

    Linux serves waiters in order of arrival. But to notice signals a wait leaves the queue, and
    joins it again at the end, after 10, 20 and 120 ms, 1.1 and 11.1 s, then every 60 s.

    **Several tokens** are taken all or none. A process that waits for several takes the first one,
    then keeps newcomers waiting until it has the rest: give it a timeout. Take in one call all that
    you need: a process that holds some tokens and waits for more can wait for ever. Where asyncio's
    loop itself must look for tokens (macOS, gevent), a task that wants several may starve.

    **The number given last is the limit** for all processes, immediately. If others have the
    semaphore open, a RuntimeWarning names both numbers before the change. Give the number in one
    place, and None elsewhere.

    The name disappears when the last process that has it open closes it or dies. A subprocess that
    was started with ``preexec_fn`` has it open until it ends. At the interpreter's end, after
    atexit, every object is closed.

    Args:
        name, handle_existence: As for ``NamedSemaphore``.
        initial_value: The number of tokens, 1 to 16,383 (8,191 on FreeBSD). None: what an existing
            semaphore has, else 1.
        unlink_on_delete: None: the name disappears with its last user. False: it exists until
            ``unlink()``. True: as for ``NamedSemaphore``.
        mode: The permission bits of a new semaphore, e.g. 0o660. The umask does not cut them.

    Raises:
        ValueError, TypeError: A bad argument; in a method, also: this object is closed.
        FileExistsError, FileNotFoundError: As for ``NamedSemaphore``; or another program's System
            V semaphore has the name's key; in a method: the semaphore was unlinked.
        PermissionError: It belongs to another user.
        OSError: The name is too long, or the system allows no more semaphores.
        NotImplementedError: This system has no System V semaphores, its calls would end the process
            (Cygwin, Android), it ignores a process's death (gVisor), or this Python has no ctypes.
    """

    _library = None  # type: Any  # a SysV; None: the running system's

    def __init__(
        self,
        name: str,
        initial_value: int | None = None,
        handle_existence: Flags = Flags.LINK_OR_CREATE,
        unlink_on_delete: bool | None = None,
        *,
        mode: int = DEFAULT_MODE,
    ) -> None:
        name = check_name(name)
        _base.check_existence(name, handle_existence)
        library: SysV = self._library or system()
        if initial_value is not None:
            initial_value = check_integer(name, "initial_value", initial_value, 1, library.most)
        mode = check_mode(name, mode)
        self._name = name
        while True:
            handle, created = open_handle(
                library,
                name,
                total=initial_value or 1,
                link=handle_existence in (Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS),
                create=handle_existence is not Flags.RAISE_IF_NOT_EXISTS,
                anew=handle_existence is Flags.UNLINK_AND_CREATE,
                mode=mode,
            )
            try:
                if initial_value is not None and not created:
                    handle.set.resize(initial_value, _warn)
                if unlink_on_delete is not None and not unlink_on_delete:
                    handle.set.operate(_set.STAY)
                break
            except FileNotFoundError:  # another process removed it meanwhile
                pass
        self._set: Set = handle.set
        self._linked = not created
        self._use(handle, Owner(handle.set.remove) if unlink_on_delete else None)

    @property
    def value(self) -> int:
        """The number of free tokens now; 0, too, while more than ``total`` are held."""
        return max(0, self._open_set().free())

    @property
    def total(self) -> int:
        """The number of all tokens, free and held."""
        return self._open_set().total()

    @property
    def waiting(self) -> int:
        """The number of threads, in all processes, that wait for tokens or for the turn.

        All tasks of one event loop that wait for one object count as one.
        """
        return self._open_set().waiting()

    @property
    def holders(self) -> list[Holder]:
        """The processes that hold tokens, as named tuples ``(pid, tokens)``.

        The kernel keeps the list, so it is exact, even after kills and ``os.execv``. pid 0 is a
        process of another PID namespace. On Linux some 200 processes have an entry each; any more
        that have the semaphore open share one, with pid None, and can release each other's tokens.
        """
        return self._open_set().holders()

    def acquire(self, blocking: bool = True, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` tokens, all or none. Return True with them, False without any.

        Args:
            blocking, timeout: as for ``NamedSemaphore.acquire``.
            n: how many tokens. While this waits for several, newcomers wait.

        Raises:
            ValueError: a bad argument, or more tokens than there are; this object is closed.
            FileNotFoundError: the semaphore was unlinked.
        """
        if n is ONE:
            if timeout is None and blocking is True:  # what follows, without another call
                for taken in self._tries:
                    if taken:
                        return True
                    break
            return super().acquire(blocking, timeout)
        check_wait(self._name, blocking, timeout)
        handle = self._handle_for(self._check_number(n))
        for taken in handle.tries:
            if taken:
                return True
            break
        return self._wait_for(timeout if blocking else 0, handle)

    async def acquire_async(self, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` tokens as ``acquire`` does. See ``NamedSemaphore.acquire_async``."""
        check_wait(self._name, True, timeout)
        handle = self._open_handle() if n is ONE else self._handle_for(self._check_number(n))
        return await self._acquire_async(handle, timeout)

    def slot(self, timeout: float | None = None) -> Slot:
        """Return a context manager that holds a token and a number: ``with sem.slot() as k:``.

        The number is the lowest from 0 to ``total - 1`` that nobody has; the kernel gives both back
        when the process ends. Also async. Call this anew for each with statement: what it returns
        keeps one number. The timeout is that of ``hold``.

        Raises:
            ValueError: a bad argument, more than 32 tokens in all, or this object is closed.
            TimeoutError: raised on entering, if no token was free in time.
        """
        check_wait(self._name, True, timeout)
        return Slot(self, timeout)

    def _open_set(self) -> Set:
        self._open_handle()
        return self._set

    def _handle_for(self, n: int) -> Any:
        handle = self._open_handle()
        if n == 1:
            return handle
        # Kept, since an exception of a signal handler inside Handle.__del__ would be dropped.
        other = handle.other
        if other is None or other.n != n:
            other = handle.other = Handle(self._set, n)
        return other

    def _check_number(self, n: object) -> int:
        return self._open_set().check_number(n)

    def _who_holds(self) -> str:
        try:
            return held_by(self._set.holders(), ": ")
        except OSError:
            return ""

    def _wait(self, deadline: int | None, handle: Any) -> bool:
        if handle.n == 1:
            return super()._wait(deadline, handle)
        # _several.wait is False when time is over. The last try is for all tokens at once.
        if _several.wait(handle, deadline) or super()._wait(deadline, handle):
            return True
        handle.set.check_number(handle.n)
        return False

    def _take_for_tasks(self, handle: Any, nanoseconds: int, is_wanted: Callable[[], bool]) -> bool:
        take = super()._take_for_tasks if handle.n == 1 else _several.take_for_tasks
        return take(handle, nanoseconds, is_wanted)

    def _raise_unless_retry(self, status: int, error: int) -> None:
        if error not in _base.RETRY:
            raise self._set.failure(error)

    def release(self, n: int = 1) -> None:
        """Give ``n`` tokens back, all or none, in one step that no signal interrupts.

        Any thread of the process that took them may, in whatever calls. If the semaphore was
        unlinked, this does nothing.

        Raises:
            ValueError: a bad ``n``, or this process holds fewer (a child of fork holds nothing);
                this object is closed.
        """
        if n is ONE:
            for failed in self._posts:
                if not failed:
                    return
                break
        n = check_integer(self._name, "n", n, 1)
        semset = self._open_set()
        held = semset.give_refused(n)
        if semset.semid.value == _set.LEFT:  # at exit
            _base.refuse_closed(self._name)
        if held is not None:
            raise ValueError(
                f"semaphore {self._name!r}: cannot release {n}: this process holds {held}"
            )

    def resize(self, total: int) -> None:
        """Change the number of tokens for all processes, immediately; see ``initial_value``.

        After a change to fewer, holders keep their tokens, and newcomers wait until enough are
        free. A wait for more than ``total`` tokens raises ValueError.

        Raises:
            ValueError: total is no int from 1 to 16,383 (8,191 on FreeBSD); this object is closed.
            FileNotFoundError: the semaphore was unlinked.
        """
        semset = self._open_set()
        semset.resize(check_integer(self._name, "total", total, 1, semset.library.most))

    def unlink(self) -> None:
        """Remove the semaphore. Waits and later calls raise FileNotFoundError; to release does not.

        Raises:
            FileNotFoundError: it was unlinked already.
            PermissionError: it belongs to another user.
            ValueError: this object is closed.
        """
        self._open_set().remove()

    def close(self) -> None:
        """Close the semaphore, as ``NamedSemaphore.close``; the last process removes it.

        This process remains a user while it holds tokens, while an object exists that ``hold()`` or
        ``slot()`` has returned, and for up to a second after a task has waited; on PyPy, until the
        garbage collector has run.
        """
        handle = self._handle
        if handle is not None:
            # Keep no handle here, so that the process can leave the set. With statements that
            # began before have another exit, which keeps it.
            self._exit = handle.calls.exit
        super().close()

    def _link(self, name: str) -> None:
        RobustSemaphore.__init__(self, name, None, Flags.RAISE_IF_NOT_EXISTS)


class Slot(Hold):
    """Holds a token and a number during a with statement. ``RobustSemaphore.slot`` returns it."""

    __slots__ = ("_operations", "_tries")

    def __init__(self, sem: RobustSemaphore, timeout: float | None) -> None:
        super().__init__(sem, 1, timeout)
        self._check_total()
        semset = sem._set
        take, give = _set.take_number(0), _set.give_number(semset.account, 0)
        self._operations, (taken, given) = semset.prepare(take, give)
        self._tries = starmap(semset.library.semop_now, repeat(taken))
        ended = Ended(partial(_end_slot, semset), self._operations)
        end = semset.library.end_of_with(given, len(give), ended.__getitem__)
        self._exit = _base.ending(end, sem, self._handle)

    def _check_total(self) -> None:
        total = self._handle.set.total()
        if total > NUMBERS:
            text = f"slots have {NUMBERS} numbers, and there are {total} tokens"
            raise ValueError(f"semaphore {self._sem.name!r}: {text}")

    def __enter__(self) -> int:
        posts = self._handle.posts  # here, since no call may come between "except" and "for"
        super().__enter__()
        try:
            return self._take_number()
        except BaseException:  # also a signal handler's
            for _ in posts:
                break
            raise

    async def __aenter__(self) -> int:
        posts = self._handle.posts
        await super().__aenter__()
        try:
            return self._take_number()
        except BaseException:
            for _ in posts:
                break
            raise

    def _take_number(self) -> int:
        """Take the lowest free number. This process holds a token, so there is one, or will be."""
        look, take, *_, give = self._operations
        while True:
            for number in range(NUMBERS):
                look.sem_num = take.sem_num = give.sem_num = NUMBER + number
                for failed in self._tries:
                    break
                if not failed:
                    return number
            self._check_total()  # it may have been resized, or removed
            sleep(0.001)


def _end_slot(semset: Set, operations: Any) -> None:
    """End a slot whose token was released inside the block, or is a parent's."""
    number = operations[-1].sem_num
    try:  # the number, too, is a parent's unless this process changed it last
        if semset.library.pid(semset.semid, number) == os.getpid():
            semset.operate([(number, -1, UNDO | NOWAIT)])
            semset.give_what_is_left(1)
    except OSError:  # removed
        pass
