"""Telling others of events by HTTP, as Standard Webhooks: a process of its own, which reads the log."""
