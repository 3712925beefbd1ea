"""What tests share: real servers, databases and browsers to start, clients that are not ours, and entries to write."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
"""Of the project."""
