# SPDX-License-Identifier: Apache-2.0
"""uWSGI loads the application once, and forks its workers in C, without Python's hooks."""

from __future__ import annotations

import sys

import pytest
from support import unique_name, wait_for
from web import SCRIPTS, Load, assert_kills_lose_no_token, serving

from named_semaphores import NamedSemaphore, RobustSemaphore

UWSGI = SCRIPTS / "uwsgi"
pytestmark = pytest.mark.skipif(not UWSGI.exists(), reason="uWSGI could not be built here")

COMMAND = (
    str(UWSGI),
    *("--master", "--processes", "2", "--http-socket", "{socket}"),
    *("--home", sys.prefix, "--wsgi-file", "app.py"),
)
RECYCLE = ("--max-requests", "5", "--min-worker-lifetime", "1")


@pytest.fixture(params=["", "--enable-threads", "--enable-threads --threads 2"])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """uWSGI's options for threads."""
    return tuple(request.param.split())


def test_recycled_workers_leave_the_names_and_all_tokens(options, name, tmp_path):
    named_name = unique_name()
    with serving(tmp_path, name, named_name, 2, *COMMAND, *RECYCLE, *options) as server:
        link = {"handle_existence": NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS}
        named, robust = NamedSemaphore(named_name, **link), RobustSemaphore(name, **link)
        with Load(server, clients=6) as load:
            wait_for(lambda: len(load.pids()) >= 4)
        wait_for(lambda: not robust.holders)
        assert (robust.value, robust.total, robust.waiting) == (2, 2, 0)
        assert named.value == 2
        for sem in (named, robust):  # their names stand for the same semaphores as before
            again = type(sem)(sem.name, **link)
            with sem:
                assert again.value == 1
            again.close()
            sem.close()
    # The name is its creator's to unlink, and uWSGI's master calls no atexit functions.
    NamedSemaphore(named_name, unlink_on_delete=True).close()


def test_a_killed_worker_loses_no_token(options, name, tmp_path):
    with serving(tmp_path, name, "", 2, *COMMAND, *options) as server:
        assert_kills_lose_no_token(server, 2)
