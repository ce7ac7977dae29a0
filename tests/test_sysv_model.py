# SPDX-License-Identifier: Apache-2.0
"""Exhaustive search: processes open, take, give, resize and leave in every order of their steps, and die after any step.

``named_semaphores._sysv`` itself is run, on calls of a simulated kernel. A process stops at each call, before the kernel carries it out.
To go on, its current action is begun again, with the results so far. Its local variables tell whether two such processes are the same, so
each state is looked at once, and the search ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

import pytest

from named_semaphores import _sysv
from named_semaphores._sysv import (
    DEAD,
    IPC_EXCL,
    LIVE,
    NAME,
    NOWAIT,
    PERSIST,
    TOKENS,
    TOTAL,
    UNDO,
    USERS,
    Removed,
    Set,
    SysV,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from named_semaphores._sysv import Operation

MODEL = "/m"
GONE = "gone"  # the result of a call on a set that was removed
MISSING = "missing"
EXISTS = "exists"


class Violation(AssertionError):
    pass


# --- A process ----------------------------------------------------------------------------------------------------------------------


class Pause(BaseException):
    """A call that the kernel has not carried out yet."""


class Calls(SysV):
    """The results so far, then a pause."""

    system = _sysv._Linux  # for texts
    has_timed_wait = True
    clock = staticmethod(lambda: 0.0)
    sleep = staticmethod(lambda seconds: None)

    def __init__(self, results: tuple[Any, ...] = (), privileged: bool = True) -> None:
        self.results = iter(results)
        self.privileged = privileged

    def call(self, *call: Any) -> Any:
        for result in self.results:
            if result == GONE:
                raise Removed(2, "")
            return result
        raise Pause(*call)

    def get(self, key: int, size: int, flags: int) -> int:
        result = self.call("get", flags)
        if result == MISSING:
            raise FileNotFoundError(2, "")
        if result == EXISTS:
            raise FileExistsError(17, "")
        return result  # type: ignore[no-any-return]

    def operate(self, semid: int, operations: list[Operation]) -> bool:
        return self.call("operate", semid, tuple(operations))  # type: ignore[no-any-return]

    def wait(self, semid: int, operations: list[Operation], seconds: float) -> bool:
        return self.call("wait", semid, tuple(operations))  # type: ignore[no-any-return]

    def value(self, semid: int, number: int) -> int:
        return self.call("value", semid, number)  # type: ignore[no-any-return]

    def values(self, semid: int, size: int) -> list[int] | None:
        return list(self.call("values", semid))

    def remove(self, semid: int) -> None:
        self.call("remove", semid)

    def may_remove(self, semid: int) -> bool:
        return self.privileged


class Opened(NamedTuple):
    """A Set, as what a process has between two actions."""

    id: int
    created_with: int
    created: bool


class Process(NamedTuple):
    """A living process, stopped at a call; or one that has done all, if there is no call."""

    action: int  # its place in the script
    opened: tuple[Opened, ...]
    held: int  # tokens it believes it has
    results: tuple[Any, ...]  # of the calls of this action
    call: tuple[Any, ...] | None
    variables: Any  # of _sysv's functions


START = Process(0, (), 0, (), None, None)


class Script(NamedTuple):
    actions: tuple[tuple[Any, ...], ...]
    privileged: bool = True  # may remove the sets of all the others
    name: str = MODEL  # the kernel of the model has one key, so that another name has the same

    def go_on(self, process: Process) -> Process:
        """Return the process, stopped at its next call."""
        action, opened, held, results = process[:4]
        while action < len(self.actions):
            try:
                opened, held = do(
                    self.actions[action], self.name, Calls(results, self.privileged), opened, held
                )
            except Pause as pause:
                return Process(
                    action, opened, held, results, pause.args, variables(pause.__traceback__)
                )
            except EndOfScript as end:
                return Process(len(self.actions), (), held, (), None, end.args)
            action, results = action + 1, ()
        return Process(action, (), held, (), None, None)


class EndOfScript(Exception):
    """The process does not get what it wants, as it should be, and ends."""


def do(
    action: tuple[Any, ...], name: str, library: Calls, opened: tuple[Opened, ...], held: int
) -> tuple[tuple[Opened, ...], int]:
    """Do one action. Return what the process has open, and holds, then."""
    what, *arguments = action
    if what == "sweep":  # as remove_idle_sets, which finds the sets in another way
        try:
            semid = library.get(_sysv.key(name), 0, 0)
            values = library.values(semid, 0)
            if (values is not None and values[LIVE]) or arguments != [True]:
                library.remove_unused(semid, _sysv.REMOVE_UNUSED)
        except (Removed, FileNotFoundError):
            pass
        return opened, held
    sets = [Set(library, name, *entry) for entry in opened]
    if what == "open":
        total, options = arguments
        try:
            new = library.open(name, total, **options)
        except ValueError:
            if total is None:
                raise Violation("ValueError without a number") from None
            raise EndOfScript from None
        except FileExistsError as error:
            if options.get("link", True) and "stands for" not in str(error):
                raise Violation("FileExistsError though it may link") from None
            raise EndOfScript(error.errno) from None
        except FileNotFoundError:
            if options.get("create", True):
                raise Violation("FileNotFoundError though it may create") from None
            raise EndOfScript from None
        except PermissionError:
            raise EndOfScript from None
        if total is not None and new.created_with() != total:
            raise Violation("another number")
        return (*opened, Opened(new.id, new.created_with(), new.created)), held
    current = sets[-1]
    try:
        if what == "take":
            while not library.wait(current.id, _sysv.take(*arguments), 1):
                pass
            return opened, held + arguments[0]
        if what == "try":  # takes nothing if nothing is free
            taken = library.operate(current.id, _sysv.take(arguments[0], NOWAIT))
            return opened, held + arguments[0] * taken
        if what == "give":
            if held and not library.operate(current.id, _sysv.give(*arguments)):
                raise Violation("a token cannot be given back")
            return opened, max(0, held - arguments[0])
        if what == "resize":
            if not current.resize(*arguments):
                raise Violation("resize without a timeout gave up")
            return opened, held
    except (Removed, FileNotFoundError):
        raise EndOfScript(GONE) from None
    if what == "leave":
        current.leave()
        return opened[:-1], held
    if what == "unlink":
        try:
            current.remove()
        except FileNotFoundError:
            pass
        return opened, held
    raise AssertionError(action)


def variables(traceback: TracebackType | None) -> Any:
    """Return where _sysv's functions are, and their variables."""
    frames = []
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        if frame.f_code.co_filename == _sysv.__file__:
            local = tuple((name, plain(value)) for name, value in sorted(frame.f_locals.items()))
            frames.append((frame.f_code.co_name, frame.f_lasti, local))
    return tuple(frames)


def plain(value: Any) -> Any:
    if value is None or isinstance(value, (int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if isinstance(value, Set):
        return plain((value.id, value.created, value.created_with(), value._joined))
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, SysV):
        return "library"
    if callable(value):
        return value.__name__
    raise AssertionError(f"a variable of _sysv that the model does not know: {value!r}")


# --- The kernel ---------------------------------------------------------------------------------------------------------------------


class Kernel(NamedTuple):
    """The set of the one key there is, if there is one, and who waits on it, in order."""

    id: int = -1
    values: tuple[int, ...] = ()
    undo: tuple[tuple[int, ...], ...] = ()  # for each process, its sums
    waiting: tuple[int, ...] = ()
    # What the kernel does not know, and the checks do:
    total: int = 0  # tokens there should be
    joined: tuple[int, ...] = ()  # for each process, how often it is in USERS
    taken: tuple[int, ...] = ()  # for each process, the tokens it took


class State(NamedTuple):
    kernel: Kernel
    processes: tuple[Process | None, ...]  # None: dead
    dying: tuple[tuple[int, ...], ...]  # sums of dead processes that are yet to be applied


FIRST_ID = 100  # no other number of the model is as large, but for the words of the name


def ids(value: Any) -> Iterator[int]:
    """Yield what may be ids of sets."""
    if isinstance(value, tuple) or isinstance(value, list):
        for part in value:
            yield from ids(part)
    elif isinstance(value, int) and value >= FIRST_ID:
        yield value


class Search:
    def __init__(
        self, *scripts: Script, unlinked: bool = False, undo_at_once: bool = True, deaths: int = 99
    ) -> None:
        self.scripts = scripts
        self.size = NAME + len(_sysv.words(scripts[0].name))
        self.names = {script.name for script in scripts}
        self.unlinked = unlinked  # by a process: then sets go while others use them
        self.undo_at_once = (
            undo_at_once  # what a dead process did is taken back in one step, as Linux does
        )
        self.deaths = deaths
        self.forget()
        self.first_with_script = [scripts.index(script) for script in scripts]

    def forget(self) -> None:
        self.advanced: dict[Any, Process] = {}
        self.numbers: dict[Any, int] = {}
        self.numbers_of_processes: dict[int, int] = {}

    def run(self) -> int:
        """Look at all states. Return how many there are; Violation, with the way there, if one must not be."""
        try:
            return self.search()
        finally:
            self.forget()

    def search(self) -> int:
        processes = tuple(script.go_on(START) for script in self.scripts)
        states = [State(Kernel(), processes, ((),) * len(self.scripts))]
        places = {self.number(states[0]): 0}
        self.came_from: list[tuple[int, str]] = [(0, "start")]
        before: list[list[int]] = [[]]  # for each state, those that lead to it without a death
        ends = []
        place = 0
        while place < len(states):
            state, states[place] = states[place], states[0]  # memory
            label, is_end = "", True
            try:
                for label, following in self.steps(state):
                    self.check(following)
                    there = places.setdefault(self.number(following), len(states))
                    if there == len(states):
                        states.append(following)
                        self.came_from.append((place, label))
                        before.append([])
                    if not label.endswith("dies"):
                        before[there].append(place)
                        is_end = False
                if is_end:
                    label = "end"
                    self.check_end(state)
                    ends.append(place)
            except Violation as violation:
                raise Violation(
                    f"{violation}\n{self.way(place)}\n{label}\n{state.kernel}"
                ) from None
            place += 1
        # Whatever happened, those who live can come to an end.
        can_end = set(ends)
        while ends:
            for earlier in before[ends.pop()]:
                if earlier not in can_end:
                    can_end.add(earlier)
                    ends.append(earlier)
        for place in range(len(states)):
            if place not in can_end:
                raise Violation(f"it goes on for ever\n{self.way(place)}")
        return len(states)

    def way(self, place: int) -> str:
        labels = []
        while place:
            place, label = self.came_from[place]
            labels.append(label)
        return "\n".join(labels[::-1])

    def number(self, state: State) -> tuple[int, ...]:
        """Return what is the same for states with the same future."""
        kernel = state.kernel
        processes = []
        for i, process in enumerate(state.processes):
            mine = 0
            if process is not None:
                mine = self.numbers_of_processes.get(
                    id(process), 0
                )  # each is kept, so its id is its own
                if not mine:
                    mine = self.small(process._replace(results=()))
                    self.numbers_of_processes[id(process)] = mine
            waits = kernel.waiting.index(i) if i in kernel.waiting else -1
            kept = (
                self.small(
                    (kernel.undo[i], kernel.joined[i], kernel.taken[i], waits, state.dying[i])
                )
                if kernel.undo
                else 0
            )
            # Processes with the same script may change places.
            processes.append((self.first_with_script[i] << 60) + (mine << 30) + kept)
        return (self.small((kernel.id, kernel.values, kernel.total)), *sorted(processes))

    def small(self, value: Any) -> int:
        return self.numbers.setdefault(value, len(self.numbers) + 1)

    def go_on(self, i: int, process: Process, result: Any) -> Process:
        process = process._replace(results=(*process.results, result))
        place = (i, process)
        if place not in self.advanced:
            self.advanced[place] = self.scripts[i].go_on(process)
        return self.advanced[place]

    # --- What can happen

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        dead = sum(process is None for process in state.processes)
        for i, process in enumerate(state.processes):
            if process is None:
                for number, change in enumerate(state.dying[i]):
                    if change:
                        yield f"{i} undoes {number}", self.undo(state, i, number)
                continue
            if process.call is None:
                continue  # has left all, and what it still held, its end gives back: as a death
            if i in state.kernel.waiting:
                if process.call[2] and process.call[2][0][0] != TOKENS:  # resize waits in slices
                    yield (
                        f"{i} stops waiting",
                        self.answer(state._replace(kernel=self.without(state.kernel, i)), i, False),
                    )
            else:
                yield f"{i} {process.call}", self.carry_out(state, i, process.call)
            if dead < self.deaths:
                yield f"{i} dies", self.die(state, i)

    def carry_out(self, state: State, i: int, call: tuple[Any, ...]) -> State:
        kernel = state.kernel
        what = call[0]
        if what == "get":
            if kernel.id < 0 and call[1] & IPC_EXCL:
                return self.answer(*self.begin(state, i))
            if kernel.id < 0:
                return self.answer(state, i, MISSING)
            return self.answer(state, i, EXISTS if call[1] & IPC_EXCL else kernel.id)
        if call[1] != kernel.id:
            return self.answer(state, i, GONE)
        if what == "value":
            return self.answer(state, i, kernel.values[call[2]])
        if what == "values":
            return self.answer(state, i, kernel.values)
        if what == "remove":
            return self.remove(state, i)
        assert what in ("operate", "wait")
        outcome = self.attempt(state, i, call[2])
        if outcome is None:
            return state._replace(kernel=kernel._replace(waiting=(*kernel.waiting, i)))
        if outcome is False:
            return self.answer(state, i, False)
        return self.wake(self.answer(state._replace(kernel=outcome), i, True))

    def answer(self, state: State, i: int, result: Any) -> State:
        process = state.processes[i]
        assert process is not None
        processes = list(state.processes)
        processes[i] = self.go_on(i, process, result)
        return state._replace(processes=tuple(processes))

    def begin(self, state: State, i: int) -> tuple[State, int, int]:
        # A process that no longer knows a set cannot tell whether another has its id.
        used = set(
            ids(
                [
                    (process.opened, process.call, process.variables)
                    for process in state.processes
                    if process
                ]
            )
        )
        new = next(number for number in itertools.count(FIRST_ID) if number not in used)
        nothing = (0,) * len(self.scripts)
        sums = ((0,) * self.size,) * len(self.scripts)
        return (
            state._replace(kernel=Kernel(new, (0,) * self.size, sums, (), 0, nothing, nothing)),
            i,
            new,
        )

    def attempt(self, state: State, i: int, operations: tuple[Operation, ...]) -> Any:
        """Return the kernel after the operations; None if they must wait, False if they cannot be and must not wait."""
        kernel, process = state.kernel, state.processes[i]
        values, sums = list(kernel.values), list(kernel.undo[i])
        for number, change, flags in operations:
            if (change and values[number] + change < 0) or (not change and values[number]):
                return False if flags & NOWAIT else None
            values[number] += change
            if flags & UNDO:
                sums[number] -= change
        undo, joined, taken, total = (
            list(kernel.undo),
            list(kernel.joined),
            list(kernel.taken),
            kernel.total,
        )
        undo[i] = tuple(sums)
        changed = dict.fromkeys(range(self.size), 0)
        for number, change, flags in operations:
            changed[number] += change
        assert process is not None
        what, *arguments = self.scripts[i].actions[process.action]
        if changed[USERS] > 0:
            others = [j for j, count in enumerate(joined) if count]
            if arguments[1].get("link") is False and others:
                raise Violation("a process created what another has open")
            if any(self.scripts[j].name != self.scripts[i].name for j in others):
                raise Violation("two names share a set")
        joined[i] += changed[USERS]
        if changed[LIVE] > 0:
            if total:
                raise Violation("a set was made ready twice")
            if arguments[1].get("create") is False:
                raise Violation("a process created what it may only link to")
            total = arguments[0] or 1
        elif changed[LIVE] < 0:
            total = 0
        elif what == "resize" and changed[TOTAL]:
            total = arguments[0]
        elif not changed[LIVE]:
            taken[i] -= changed[TOKENS]
        return kernel._replace(
            values=tuple(values),
            undo=tuple(undo),
            joined=tuple(joined),
            taken=tuple(taken),
            total=total,
        )

    def wake(self, state: State) -> State:
        """Let whoever waits have what became possible, the longest waiter first."""
        for i in state.kernel.waiting:
            process = state.processes[i]
            assert process is not None
            assert process.call is not None
            outcome = self.attempt(state, i, process.call[2])
            if outcome is None:
                continue
            kernel = state.kernel if outcome is False else outcome
            return self.wake(
                self.answer(state._replace(kernel=self.without(kernel, i)), i, outcome is not False)
            )
        return state

    @staticmethod
    def without(kernel: Kernel, i: int) -> Kernel:
        return kernel._replace(waiting=tuple(j for j in kernel.waiting if j != i))

    def remove(self, state: State, i: int) -> State:
        process = state.processes[i]
        assert process is not None
        action = self.scripts[i].actions[process.action]
        on_purpose = action[0] == "unlink" or (action[0] == "open" and action[2].get("anew"))
        if not on_purpose:
            for j, joined in enumerate(state.kernel.joined):
                if joined > 0 and state.processes[j] is not None:
                    raise Violation("a set was removed that a living process has open")
        waiting = state.kernel.waiting
        state = state._replace(kernel=Kernel(), dying=((),) * len(self.scripts))
        state = self.answer(state, i, None)
        for j in waiting:
            state = self.answer(state, j, GONE)
        return state

    def die(self, state: State, i: int) -> State:
        processes, dying = list(state.processes), list(state.dying)
        processes[i] = None
        kernel = self.without(state.kernel, i)
        if kernel.id < 0:
            return state._replace(processes=tuple(processes))
        sums, joined = list(kernel.undo), list(kernel.joined)
        dying[i], sums[i], joined[i] = sums[i], (0,) * self.size, 0
        state = State(
            kernel._replace(undo=tuple(sums), joined=tuple(joined)), tuple(processes), tuple(dying)
        )
        if self.undo_at_once:
            for number, change in enumerate(state.dying[i]):
                if change:
                    state = self.undo(state, i, number, wake=False)
            state = self.wake(state)
        return state

    def undo(self, state: State, i: int, number: int, wake: bool = True) -> State:
        kernel, dying = state.kernel, list(state.dying)
        values, taken = list(kernel.values), list(kernel.taken)
        values[number] = max(0, values[number] + dying[i][number])
        if number == TOKENS:
            taken[i] -= dying[i][number]
        dying[i] = tuple(0 if n == number else change for n, change in enumerate(dying[i]))
        state = State(
            kernel._replace(values=tuple(values), taken=tuple(taken)), state.processes, tuple(dying)
        )
        return self.wake(state) if wake else state

    # --- What must be true

    def check(self, state: State) -> None:
        kernel = state.kernel
        living = [process for process in state.processes if process is not None]
        if not self.unlinked:
            held = sum(process.held for process in living)
            if held > max(kernel.total, 0):
                raise Violation("more tokens are held than there are")
            if any(process.variables == (GONE,) for process in living):
                raise Violation("a process uses a set that was removed")
        if kernel.id >= 0 and kernel.total:
            if kernel.values[TOTAL] != kernel.total:
                raise Violation("the total is wrong")
            if kernel.values[TOKENS] + sum(kernel.taken) != kernel.total:
                raise Violation("free and held are not the total")

    def check_end(self, state: State) -> None:
        """Nothing can happen any more: nobody may wait, and the name must be as good as new."""
        for process in state.processes:
            if process is not None and process.call is not None:
                raise Violation("somebody waits for ever")
        kernel = state.kernel
        if kernel.id < 0:
            return
        if len(self.names) > 1:
            return
        nobody_died = all(state.processes) and all(script.privileged for script in self.scripts)
        if nobody_died and not kernel.values[PERSIST]:
            raise Violation("a set was left, though nobody died")
        if kernel.values[LIVE] and kernel.values[TOKENS] != kernel.values[TOTAL]:
            raise Violation("tokens were lost")
        if kernel.values[USERS]:
            raise Violation("USERS is wrong")
        if kernel.values[PERSIST]:
            return
        # A newcomer with another number.
        newcomer = Search(
            Script((("open", 7, CREATE), ("take", 7), ("give", 7), ("leave",))), deaths=0
        )
        kernel = Kernel(kernel.id, kernel.values, ((0,) * self.size,), (), kernel.total, (0,), (0,))
        state = State(kernel, (newcomer.scripts[0].go_on(START),), ((),))
        for _ in range(100):
            process = state.processes[0]
            assert process is not None
            if process.call is None:
                break
            ((_, state),) = newcomer.steps(state)
            newcomer.check(state)
        if state.kernel.id >= 0:
            raise Violation("a newcomer cannot begin anew")


# --- The tests ----------------------------------------------------------------------------------------------------------------------

CREATE = {"link": False}
LINK = {"create": False}
ANEW = {"anew": True}


def user(total: int | None, n: int = 1, **options: bool) -> Script:
    return Script((("open", total, options), ("take", n), ("give", n), ("leave",)))


def visitor(total: int | None, **options: bool) -> Script:
    return Script((("open", total, options), ("leave",)))


def returner(total: int | None) -> Script:
    return Script(
        (("open", total, {}), ("leave",), ("open", total, {}), ("take", 1), ("give", 1), ("leave",))
    )


def twofold(total: int | None) -> Script:
    return Script(
        (("open", total, {}), ("open", total, {}), ("leave",), ("take", 1), ("give", 1), ("leave",))
    )


def resizer(total: int, *sizes: int) -> Script:
    return Script((("open", total, {}), *(("resize", size) for size in sizes), ("leave",)))


def resizing_user(total: int, size: int) -> Script:
    return Script((("open", total, {}), ("take", 1), ("resize", size), ("give", 1), ("leave",)))


def unlinker(total: int) -> Script:
    return Script((("open", total, {}), ("unlink",), ("leave",)))


def sweeper(looks: bool = True) -> Script:
    return Script((("sweep", looks),))


def unprivileged(script: Script) -> Script:
    return script._replace(privileged=False)


def named(script: Script, name: str) -> Script:
    return script._replace(name=name)


# Two names whose words are as many, more than are written at once.
ONE, OTHER = "/model.a", "/other.b"

QUICK = {
    "users": Search(user(1), user(1)),
    "another number": Search(user(1), user(2, 2)),
    "come and go again": Search(returner(1), returner(2)),
    "opened twice": Search(twofold(1), user(1)),
    "resize at once": Search(resizer(2, 3), resizer(2, 1)),
    "resize under use": Search(resizer(2, 3, 1), user(2)),
    "resize while holding": Search(resizing_user(2, 1), user(2)),
    "create or link only": Search(visitor(1, **CREATE), visitor(1, **LINK)),
    "any number": Search(user(None), user(2)),
    "persistent": Search(visitor(1, persist=True), visitor(2)),
    "swept": Search(visitor(1, persist=True), visitor(1), sweeper()),
    "anew": Search(user(1), user(1, **ANEW), unlinked=True),
    "unlinked": Search(user(1), unlinker(1), unlinked=True),
    "undone in steps": Search(user(1), user(2), undo_at_once=False),
    "of other users": Search(unprivileged(user(1)), user(1)),
    "one key, two names": Search(named(visitor(1), ONE), named(visitor(1), OTHER)),
    "three visitors": Search(visitor(1), visitor(1), visitor(1)),
    "three users": Search(user(1), user(1), user(1)),
}
FULL = {
    "users of two tokens": Search(user(2), user(2, 2), user(2)),
    "another number": Search(user(1), user(1), user(2, 2)),
    "visitors with another number": Search(visitor(1), visitor(1), visitor(2)),
    "come and go again": Search(returner(1), visitor(1), visitor(2)),
    "opened twice": Search(twofold(1), user(1), visitor(2)),
    "resize at once": Search(resizer(2, 3), resizer(2, 1), user(2)),
    "resize while holding": Search(resizing_user(2, 1), resizer(2, 3), user(2)),
    "create or link only": Search(visitor(1, **CREATE), visitor(1, **LINK), visitor(1)),
    "persistent": Search(visitor(1, persist=True), visitor(1), visitor(2)),
    "swept": Search(visitor(1, persist=True), visitor(1, **CREATE), sweeper(), sweeper()),
    "anew": Search(user(1), visitor(1, **ANEW), visitor(1, **ANEW), unlinked=True),
    "unlinked": Search(user(1), unlinker(1), visitor(1), unlinked=True),
    "undone in steps": Search(user(1), user(1), user(2, 2), undo_at_once=False),
    "of other users": Search(unprivileged(visitor(1)), visitor(1), visitor(2)),
    "of other users, to create": Search(
        unprivileged(visitor(1, **CREATE)), visitor(1), unprivileged(visitor(1))
    ),
    "one key, two names": Search(
        named(visitor(1), ONE), named(visitor(1), OTHER), named(visitor(1), ONE)
    ),
}


@pytest.mark.parametrize("search", QUICK.values(), ids=QUICK)
def test_every_order_of_steps_and_deaths(search: Search) -> None:
    assert search.run() > 100


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("search", FULL.values(), ids=FULL)
def test_every_order_of_steps_and_deaths_of_three(search: Search, full: bool) -> None:
    if not full:
        pytest.skip("minutes: with --full")
    assert search.run() > 1000


# The model must find what is wrong: transitions with one operation changed.

NU = NOWAIT | UNDO
FAULTS: dict[str, tuple[str, Any, str, str]] = {
    # A newcomer makes the set ready again just before IPC_RMID.
    "LIVE - 1 as dead": (
        "REMOVE_IDLE",
        [
            (PERSIST, 0, NOWAIT),
            (USERS, 0, NOWAIT),
            (LIVE, -1, NOWAIT),
            (TOKENS, -1, NOWAIT),
            (TOTAL, -1, NOWAIT),
        ],
        "three visitors",
        "a set was removed that a living process has open",
    ),
    "removal without a mark": (
        "REMOVE_IDLE",
        [(PERSIST, 0, NOWAIT), (USERS, 0, NOWAIT)],
        "users",
        "a set was removed that a living process has open",
    ),
    "removal of what is used": (
        "REMOVE_IDLE",
        [(PERSIST, 0, NOWAIT), (DEAD, 1, NU)],
        "users",
        "a set was removed that a living process has open",
    ),
    "a mark that outlives its process": (
        "REMOVE_IDLE",
        [(PERSIST, 0, NOWAIT), (USERS, 0, NOWAIT), (DEAD, 1, NOWAIT)],
        "of other users",
        "it goes on for ever",
    ),
    "joining what is being removed": (
        "JOIN",
        [(USERS, 1, NU)],
        "users",
        "a set was removed that a living process has open",
    ),
    "an opening that outlives its process": (
        "JOIN",
        [(DEAD, 0, NOWAIT), (USERS, 1, NOWAIT)],
        "users",
        "USERS is wrong",
    ),
    "leaving counted twice": (
        "LEAVE",
        [(USERS, -1, NOWAIT)],
        "opened twice",
        "a set was removed that a living process has open",
    ),
    "made ready twice": (
        "make_ready",
        lambda total: [
            (LIVE, total, NOWAIT),
            (TOKENS, total, NOWAIT),
            (TOTAL, total, NOWAIT),
            (USERS, 1, NU),
        ],
        "users",
        "a set was made ready twice",
    ),
    "tokens that die": (
        "take",
        lambda n, flags=0: [(TOKENS, -n, flags)],
        "users",
        "tokens were lost|somebody waits for ever",
    ),
    "tokens out of nothing": (
        "give",
        lambda n: [(TOKENS, n, NOWAIT)],
        "users",
        "tokens were lost|more tokens are held",
    ),
    "resize without a comparison": (
        "resize",
        lambda total, new: [(TOTAL, new - total, NOWAIT), (TOKENS, new - total, 0)],
        "resize at once",
        "the total is wrong",
    ),
    "taking over what is used": (
        "TAKE_OVER",
        [(PERSIST, 0, NOWAIT), (DEAD, 0, NOWAIT), (USERS, 1, NU)],
        "of other users, to create",
        "a process created what another has open",
    ),
    "a name written twice": (
        "write_name",
        lambda place, words: [(NAME + place + i, word, NOWAIT) for i, word in enumerate(words)],
        "users",
        "FileExistsError though it may link|a newcomer cannot begin anew",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_search_finds_a_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transition, wrong, search, message = FAULTS[fault]
    monkeypatch.setattr(_sysv, transition, wrong)
    with pytest.raises(Violation, match=f"^({message})"):
        {**FULL, **QUICK}[search].run()


def test_the_search_finds_a_sweep_of_what_is_not_ready() -> None:
    with pytest.raises(Violation, match="^a set was removed that a living process has open"):
        Search(visitor(1), sweeper(False)).run()


def test_the_search_finds_a_missed_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "wake", lambda search, state: state)
    with pytest.raises(Violation, match="^somebody waits for ever"):
        QUICK["users"].run()
