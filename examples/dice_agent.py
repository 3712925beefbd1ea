"""An agent that rolls dice: a command, a step that the room sees, a question back, and what it remembers of a room.

    PYTHONPATH=examples tornado-chat agent dice_agent:agent --room lobby

Then write `/roll 2d6` or `@dice roll for me` in the lobby. It needs no model and no key.
"""

from __future__ import annotations

import random
import re

from tornado_chat.agents import Agent, Context, Message

agent = Agent("dice")


@agent.on_command("roll")
async def roll(ctx: Context, message: Message) -> str:
    found = re.fullmatch(r"(\d{1,2})d(\d{1,3})", message.arguments or "1d6")
    if found is None or not int(found[1]) or not int(found[2]):
        return "Write how many dice and with how many sides, such as `/roll 2d6`."
    count, sides = int(found[1]), int(found[2])
    async with ctx.step("roll", input=found[0]) as step:
        rolled = [random.randint(1, sides) for _ in range(count)]
        step.output = " + ".join(map(str, rolled))
    total = sum(rolled)
    best = ctx.state["best"] = max(total, ctx.state.get("best", 0))
    return f"**{total}** ({step.output}). The best of this room is {best}."


@agent.on_mention
async def talk(ctx: Context, message: Message) -> str:
    try:
        answer = await ctx.ask("How many dice, and with how many sides? Such as 2d6.", seconds=60)
    except TimeoutError:
        return "Then another time."
    return f"Write `/roll {answer.text.strip()}`, and I do."


if __name__ == "__main__":
    import os

    agent.url, agent.token = os.environ["TORNADO_CHAT_URL"], os.environ["TORNADO_CHAT_TOKEN"]
    agent.run()
