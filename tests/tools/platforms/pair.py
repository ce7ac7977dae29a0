# SPDX-License-Identifier: Apache-2.0
"""One side of a pair of programs that share semaphores. pair.c is the same in C.

make NAME VALUE              create the semaphore and leave it
play MINE THEIRS ROUNDS      acquire MINE, release THEIRS, in turns with the other side
value NAME VALUE             the semaphore has this value
drop NAME                    unlink it
refused NAME WORD            linking raises an OSError whose text has the word, and the name stays
absent NAME                  there is no such semaphore here
"""

import os
import sys

from named_semaphores import NamedSemaphore

PATIENCE = 60  # seconds; a lost wake-up shall end the run, and an emulated CPU is slow


def link(name):
    return NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)


def make(name, value):
    flag = NamedSemaphore.Flags.RAISE_IF_EXISTS
    assert not NamedSemaphore(
        name, int(value), flag, unlink_on_delete=False
    ).linked_existing_semaphore


def play(mine, theirs, rounds):
    mine, theirs = link(mine), link(theirs)
    for number in range(int(rounds)):
        assert mine.acquire(timeout=PATIENCE), f"not woken in round {number}"
        theirs.release()


def value(name, expected):
    assert link(name).value == int(expected), link(name)


def drop(name):
    link(name).unlink()


def refused(name, word):
    try:
        link(name)
    except FileNotFoundError:
        raise
    except OSError as error:
        print("refused:", error)
        assert word in str(error), "the text does not say " + word
    else:
        raise AssertionError("linked to a semaphore it cannot use")
    assert any(name.strip("/") in file for file in os.listdir("/dev/shm")), "the name is gone"


def absent(name):
    try:
        link(name)
    except FileNotFoundError:
        return
    raise AssertionError("linked to the other one's semaphore")


globals()[sys.argv[1]](*sys.argv[2:])
