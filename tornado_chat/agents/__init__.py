"""Agents: programs that answer in rooms. Each is a client, in a process that is not the server's."""
