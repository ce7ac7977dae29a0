# SPDX-License-Identifier: Apache-2.0
"""The public API as type checkers see it. Checked by ``tox -e typing``, never run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager

from named_semaphores import NamedSemaphore, RobustSemaphore
from named_semaphores.zookeeper import ZooKeeperSemaphore


class Mine(NamedSemaphore):
    pass


flag: NamedSemaphore.Flags = NamedSemaphore.Flags.RAISE_IF_EXISTS
sem: Mine = Mine("name", 3, flag, True, mode=0o660)
robust: RobustSemaphore = RobustSemaphore("name", 3, RobustSemaphore.Flags.LINK_OR_CREATE, False)
robust = RobustSemaphore("name", mode=0o660)
shared: ZooKeeperSemaphore = ZooKeeperSemaphore("name", 3, client=object(), on_lost=print)

got: bool = sem.acquire()
got = sem.acquire(False)
got = sem.acquire(True, 1.5)
got = robust.acquire(timeout=1, n=2)
got = shared.acquire(timeout=1.5)
sem.release()
robust.release(2)
shared.release(2)
robust.resize(5)
sem.unlink()
sem.close()

name: str = sem.name
number: int = sem.value + robust.value + shared.value
number = robust.total + robust.waiting + shared.total
for pid, tokens in robust.holders:
    held_by: tuple[int | None, int] = pid, tokens
who: int | None = robust.holders[0].pid
is_so: bool = sem.linked_existing_semaphore or sem.unlink_on_delete or sem.closed or shared.lost

manager: AbstractContextManager[NamedSemaphore] = sem
async_manager: AbstractAsyncContextManager[NamedSemaphore] = sem
with sem as entered, sem.hold(timeout=1.5) as held:
    same: Mine = entered
    same = held
with robust as entered_robust, robust.hold(3, timeout=5) as held_robust, robust.slot() as slot:
    same_robust: RobustSemaphore = entered_robust
    same_robust = held_robust
    number = slot
with shared as entered_shared:
    same_shared: ZooKeeperSemaphore = entered_shared


async def tasks() -> bool:
    async with sem as own, own.hold() as held_own, robust, robust.slot(1.5) as own_number:
        kept: Mine = own
        kept = held_own
    return await kept.acquire_async(timeout=own_number) or await robust.acquire_async(n=2)


sem.acquire("yes")  # type: ignore[arg-type]
sem.release(1.5)  # type: ignore[arg-type]
NamedSemaphore(3)  # type: ignore[arg-type]
sem.value = 3  # type: ignore[misc]
robust.acquire(n="2")  # type: ignore[arg-type]
robust.resize("2")  # type: ignore[arg-type]
robust.hold(timeout="2")  # type: ignore[arg-type]
robust.total = 3  # type: ignore[misc]
shared.acquire("yes")  # type: ignore[arg-type]
ZooKeeperSemaphore("name")  # type: ignore[call-arg]
shared.value = 3  # type: ignore[misc]
