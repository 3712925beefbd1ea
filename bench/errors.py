"""The one exception of the benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """What cannot be measured: a tool is missing, or a run gave no figure, or a wrong one (an event lost).

    Its text is what the user reads: the line under the table, or all that is printed.
    """
