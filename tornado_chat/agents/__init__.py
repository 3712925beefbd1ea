"""Agents: programs that answer in rooms, each reply once, whoever dies. They are clients like any other."""
