"""Bytes and messages: no I/O, no clock."""
