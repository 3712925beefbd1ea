"""An agent, and its life in a process."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from tornado_chat.agents.declaration import Declaration, Token
from tornado_chat.agents.life import Life, new_replica


class Agent(Declaration):
    """An agent: a user of the chat whom a program answers for.

        agent = Agent("helper", url="http://127.0.0.1:8080", token=TOKEN)

        @agent.on_mention
        async def answer(ctx, message):
            yield "You said: " + message.prompt

        agent.run()

    Who it is says the token. `name` is what its own token is made for, where the command `tornado-chat agent` makes
    one. `rooms`: those that it follows from its start on, besides the ones where it is named or to which it is invited.

    `double_texting` is what becomes of a question while another of the same person is not answered. A question older
    than `max_age` seconds is not answered. `answer_agents`: those of other agents are, three in a row at most.
    `replies_a_minute` are those of a room, whichever replica gives them; `max_open` those that one process gives at a
    time. The further ones wait. Of reactions as many are heeded, and the further ones are not.
    """

    async def serve(self, *, url: str | None = None, token: Token | None = None, replica: str | None = None) -> None:
        """Live until cancelled; Refused (of tornado_chat.client) if the server will not have it.

        `replica` is the name of this process among several that are this agent.
        """
        url, token = url or self.url, token or self.token
        if url is None or token is None:
            raise ValueError("an agent has to know the server's url and a token")
        await Life(self, replica or new_replica()).run(url, token)

    def run(self) -> None:
        """`serve` on a loop of its own, until SIGTERM or Ctrl-C."""

        async def until_told() -> None:
            task = asyncio.current_task()
            assert task is not None
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await self.serve()

        asyncio.run(until_told())
