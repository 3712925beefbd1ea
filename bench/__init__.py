"""Benchmarks, and the servers that they measure."""
