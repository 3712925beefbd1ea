"""Bridges for those who have something already: a question to an agent and its reply, in the words of other protocols.

Each asks in a room, as a user who speaks there does, so that whoever may enter sees it, and any process can follow it.
"""
