"""Tornado handlers: the handshake, the page, health and metrics."""
