# SPDX-License-Identifier: Apache-2.0
"""Faults that cost other semaphores tokens, names or their process. The suite runs them small,
``python tests/tools/stress`` at full size.
"""
