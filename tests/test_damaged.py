# SPDX-License-Identifier: Apache-2.0
"""What a killed process left of its coverage data is found, and removed."""

from __future__ import annotations

import contextlib

import pytest

sqlite3 = pytest.importorskip(
    "sqlite3", reason="this Python has no sqlite3, so coverage does not run on it either"
)

PAGE = 4096


@pytest.fixture
def database(tmp_path):
    path = tmp_path / ".coverage.whole"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE}")
        connection.execute("CREATE TABLE coverage_schema (version INTEGER)")
        connection.execute("INSERT INTO coverage_schema VALUES (7)")
        connection.execute(
            "CREATE TABLE arc (source INTEGER, target INTEGER, UNIQUE (source, target))"
        )
        connection.executemany(
            "INSERT INTO arc VALUES (?, ?)", ((number, number + 1) for number in range(2000))
        )
        connection.commit()
    return path


def test_whole_files_stay(database, tmp_path, capsys):
    import damaged

    damaged.main(str(tmp_path))
    assert database.exists()
    assert capsys.readouterr().out.startswith("0 of 1 ")


def test_files_that_were_only_begun_go(tmp_path, capsys):
    import damaged

    path = tmp_path / ".coverage.begun"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE coverage_schema (version INTEGER)")
    damaged.main(str(tmp_path))
    assert not path.exists()
    assert capsys.readouterr().out.startswith("1 of 1 ")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-PAGE], id="the last page was not written"),
        pytest.param(
            lambda data: data[: PAGE * 3] + bytes(PAGE) + data[PAGE * 4 :],
            id="one page was not written",
        ),
        pytest.param(lambda data: data[:50], id="little was written"),
        pytest.param(lambda data: b"", id="nothing was written"),
        pytest.param(lambda data: b"x" * 5000, id="something else"),
    ],
)
def test_damaged_files_go(database, tmp_path, capsys, damage):
    import damaged

    other = tmp_path / ".coverage.other"
    other.write_bytes(damage(database.read_bytes()))
    damaged.main(str(tmp_path))
    assert not other.exists()
    assert database.exists()
    assert capsys.readouterr().out.startswith("1 of 2 ")
