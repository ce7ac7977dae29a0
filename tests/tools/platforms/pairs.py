# SPDX-License-Identifier: Apache-2.0
"""Two different programs on one name: pairs that work, and pairs that must be refused."""

import shlex
from typing import Callable, NamedTuple

from runtimes import BY_NAME, CACHE, HERE, HOST, need, run

ROUNDS = 200


class Pair(NamedTuple):
    name: str
    left: str  # a runtime's name, HOST's, or "c"
    right: str
    # From the commands of both sides, what a shell shall do, all of which must succeed.
    script: Callable[[str, str], str]
    shown: str


def together(left, right):
    """Each wakes the other. What one side counts the other reads, whoever made the semaphore."""
    return f"""
        {left} make /ping 1; {right} make /pong 0
        {left} play /ping /pong {ROUNDS} & {right} play /pong /ping {ROUNDS}; wait $!
        {right} value /ping 1; {left} value /pong 0
        {right} drop /ping; {left} drop /pong
        {right} make /many 2147483647; {left} value /many 2147483647; {left} drop /many"""


def refused(word):
    """The right side refuses to link, and says why. The left side's semaphore works on."""

    def script(left, right):
        return f"""
            {left} make /pair 5; {right} refused /pair '{word}'
            {left} value /pair 5; {left} drop /pair"""

    return script


def apart(left, right):
    """The same name is a semaphore for each side, and neither sees the other's."""
    return f"""
        {left} make /pair 1; {right} absent /pair
        {right} make /pair 2; {left} value /pair 1
        {left} drop /pair; {left} absent /pair
        {right} value /pair 2; {right} drop /pair"""


ALL = [
    Pair("cpython+pypy3", HOST.name, "pypy3", together, f"{ROUNDS} rounds"),
    Pair("cpython+c", HOST.name, "c", together, f"{ROUNDS} rounds"),
    Pair("native+arm64", HOST.name, "arm64", together, f"{ROUNDS} rounds"),
    Pair("i386+armhf", "i386", "armhf", together, f"{ROUNDS} rounds"),
    Pair("native/i386", HOST.name, "i386", refused("64-bit"), "refused"),
    Pair("i386/native", "i386", HOST.name, refused("32-bit"), "refused"),
    Pair("glibc/musl", HOST.name, "cpython3.13-musl", apart, "neither sees the other's"),
]


def side(name):
    """Return the shell text that starts a side, and what that side is."""
    if name == "c":
        need({"gcc": "gcc"})
        program = CACHE / "pair"
        run("gcc", "-O2", "-o", program, HERE / "pair.c", "-pthread")
        return shlex.quote(str(program)), {**HOST.get().probe(), "version": "C"}
    place = BY_NAME[name].get()
    command = ["env", f"PYTHONPATH={place.packages / 'wheel'}", *place.script("pair.py")]
    return " ".join(map(shlex.quote, command)), place.probe()
