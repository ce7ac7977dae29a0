# SPDX-License-Identifier: Apache-2.0
"""The public API as type checkers see it. Checked by ``tox -e typing``, never run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager

from named_semaphores import NamedSemaphore, RobustSemaphore
from named_semaphores.zookeeper import ZooKeeperSemaphore

sem: NamedSemaphore = NamedSemaphore(
    "name", 3, NamedSemaphore.Flags.RAISE_IF_EXISTS, True, mode=0o660
)
flag: NamedSemaphore.Flags = NamedSemaphore.Flags.LINK_OR_CREATE
got: bool = sem.acquire()
got = sem.acquire(False)
got = sem.acquire(timeout=1)
got = sem.acquire(True, 1.5)
sem.release()
sem.release(2)
name: str = sem.name
value: int = sem.value
linked: bool = sem.linked_existing_semaphore
unlinks: bool = sem.unlink_on_delete
closed: bool = sem.closed
sem.unlink()
sem.close()
manager: AbstractContextManager[NamedSemaphore] = sem
async_manager: AbstractAsyncContextManager[NamedSemaphore] = sem

with sem as entered:
    same: NamedSemaphore = entered


with sem.hold(timeout=1.5) as entered:
    same = entered


class Mine(NamedSemaphore):
    pass


with Mine("name") as mine, mine.hold() as held_mine:
    still_mine: Mine = mine
    still_mine = held_mine


async def tasks() -> bool:
    async with Mine("name") as own, own.hold() as held:
        kept: Mine = own
        kept = held
    return await kept.acquire_async(timeout=2.0)


sem.acquire("yes")  # type: ignore[arg-type]
sem.release(1.5)  # type: ignore[arg-type]
NamedSemaphore(3)  # type: ignore[arg-type]
sem.value = 3  # type: ignore[misc]

robust: RobustSemaphore = RobustSemaphore(
    "name", 3, RobustSemaphore.Flags.RAISE_IF_EXISTS, False, mode=0o660
)
robust = RobustSemaphore("name")
got = robust.acquire(timeout=1, n=2)
robust.release(2)
robust.release()
free: int = robust.value
total: int = robust.total
waiting: int = robust.waiting
for pid, tokens in robust.holders:
    held_by: tuple[int | None, int] = pid, tokens
who: int | None = robust.holders[0].pid
robust.resize(5)
with robust as entered_robust:
    same_robust: RobustSemaphore = entered_robust
with robust.hold(3, timeout=5) as entered_robust:
    same_robust = entered_robust
with robust.slot(timeout=None) as number:
    slot: int = number


async def robust_tasks() -> bool:
    async with robust.hold(2) as held_robust, robust.slot(1.5) as own_number, robust:
        mine: RobustSemaphore = held_robust
        free_slots: int = mine.value - own_number
    return free_slots > 0 and await robust.acquire_async(timeout=2.0, n=2)


robust.acquire(n="2")  # type: ignore[arg-type]
robust.resize("2")  # type: ignore[arg-type]
robust.hold(timeout="2")  # type: ignore[arg-type]
robust.total = 3  # type: ignore[misc]

shared: ZooKeeperSemaphore = ZooKeeperSemaphore("name", 3, client=object(), on_lost=print)
got = shared.acquire(timeout=1.5)
shared.release(2)
value = shared.value
value = shared.total
gone: bool = shared.lost
with shared as entered_shared:
    same_shared: ZooKeeperSemaphore = entered_shared
shared.acquire("yes")  # type: ignore[arg-type]
ZooKeeperSemaphore("name")  # type: ignore[call-arg]
shared.value = 3  # type: ignore[misc]
