# SPDX-License-Identifier: Apache-2.0
"""Policy: the check of names. A module of its own, because the command line's run must not import ``_base``, which imports enum."""

from __future__ import annotations


def check_name(name: object) -> str:
    """Return the name with its leading slash. TypeError: it is no str. ValueError: it is empty, or has another character than allowed."""
    if not isinstance(name, str):
        raise TypeError(f"a semaphore's name must be a str, not {name!r}")
    bare = name[1:] if name.startswith("/") else name
    if not bare:
        raise ValueError(f"a semaphore's name must not be empty: {name!r}")
    others = bare.replace("-", "").replace("_", "").replace(".", "")
    if others and not others.isalnum():
        wrong = next(character for character in others if not character.isalnum())
        raise ValueError(
            f"a semaphore's name is made of letters, digits, '-', '_' and '.': {name!r} has {wrong!r}"
        )
    return "/" + bare
