"""What people do with an agent: ask, ask twice at once, stop it, ask again in other words, take a question back."""

from __future__ import annotations

import random
from collections import deque

from tornado_chat.verify.answers import Answers, Question
from tornado_chat.verify.device import Device
from tornado_chat.verify.tales import question

KEPT = 10
"""Questions of one user that may be asked again, or taken back."""
PATIENT = 3
"""So many without an answer keep a user from asking more."""
ANEW, AT_ONCE = 0.7, 0.2
"""So many of what they do are new questions; so many of these are two."""
STOPS, EDITS = 0.5, 0.35
"""The rest: so many are stops, edits, else deletions."""


class Asking:
    """Each question has a key that is its own."""

    def __init__(self, answers: Answers, run: str, dice: random.Random) -> None:
        self._answers = answers
        self._run = run
        self._dice = dice
        self._count = 0
        self._mine: dict[str, deque[Question]] = {}  # by user

    def do(self, device: Device) -> None:
        """Something, from this device."""
        dice = self._dice
        mine = self._mine.setdefault(device.user, deque(maxlen=KEPT))
        anew = dice.random() < ANEW and sum(asked.waits for asked in mine) < PATIENT
        if anew or not self._come_back(device, mine):
            room = dice.choice(device.spoken)
            for _ in range(2 if dice.random() < AT_ONCE else 1):
                mine.append(self._ask(device, room))

    def _ask(self, device: Device, room: str) -> Question:
        key = self._key()
        sent = device.commands.make(
            {"type": "send", "room": room, "text": question(key), "mentions": [self._answers.user]}
        )
        device.ledger.counts["questions"] += 1
        asked = self._answers.ask(room, device.user, sent.id, key)
        device.commands.say(sent)
        return asked

    def _come_back(self, device: Device, mine: deque[Question]) -> bool:
        """To what was asked before; False if there is nothing that could be done."""
        dice, counts = self._dice, device.ledger.counts
        there = [one for one in mine if one.seq and not one.deleted and not one.editing and one.room in device.rooms]
        kind = dice.random()
        if kind < STOPS:
            growing = [one for one in there if one.replies and one.replies[-1].end is None]
            if growing:
                chosen = dice.choice(growing)
                counts["stops of replies"] += 1
                device.authoring.ask_stop(chosen.room, chosen.replies[-1].seq if dice.random() < 0.7 else None)
            return bool(growing)
        if not there:
            return False
        chosen = dice.choice(there)
        if kind < STOPS + EDITS:
            chosen.editing = True
            counts["asked again"] += 1
            command = {"type": "edit", "room": chosen.room, "seq": chosen.seq, "text": question(self._key())}
        else:
            mine.remove(chosen)
            counts["taken back"] += 1
            command = {"type": "delete", "room": chosen.room, "seq": chosen.seq}
        device.commands.speak(command)
        return True

    def _key(self) -> str:
        self._count += 1
        return f"q{self._run}x{self._count}"
