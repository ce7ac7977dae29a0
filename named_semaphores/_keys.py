# SPDX-License-Identifier: Apache-2.0
"""A semaphore's name as the key of a set, and as the words that are stored in it."""

from __future__ import annotations

from binascii import crc32

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_NAME = 255  # in bytes, with the slash; systems with small sets allow less


def key(name: str) -> int:
    """Return 31 bits, since key_t is an int on some systems. Never 0, which is IPC_PRIVATE."""
    return crc32(b"named_semaphores:" + name.encode()) & 0x7FFFFFFF or 1


def words(name: str) -> list[int]:
    """Return the name, and an end mark, in words of 15 bits.

    No word is 0: each has a whole byte of the name, or bits of the mark.
    """
    data = name.encode() + b"\xff"
    count = -(-len(data) * 8 // 15)
    number = int.from_bytes(data, "big") << count * 15 - len(data) * 8
    return [number >> 15 * i & 0x7FFF for i in reversed(range(count))]


def name_of(stored: Iterable[int]) -> str | None:
    """Return the name that begins these words and ends with a mark, or None."""
    number = count = 0
    for word in stored:
        number, count = number << 15 | word, count + 15
    data, mark, _ = (number << -count % 8).to_bytes(-(-count // 8), "big").partition(b"\xff")
    if not mark or data[:1] != b"/" or b"\0" in data:
        return None
    return data.decode(errors="replace")
