# SPDX-License-Identifier: Apache-2.0
"""Where named-semaphores 1.0.3 had the class; its programs import it from here."""

from .core import NamedSemaphore

__all__ = ["NamedSemaphore"]
