# SPDX-License-Identifier: Apache-2.0
"""Without named semaphores the package can be imported, and the constructor says why not."""

from named_semaphores import NamedSemaphore

try:
    NamedSemaphore("/refused")
except (NotImplementedError, OSError) as error:
    print(f"{type(error).__name__}: {error}")
    assert len(str(error).split()) > 3, "that is no sentence"
else:
    raise AssertionError("a semaphore was made")
