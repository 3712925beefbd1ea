"""Whatever speaks OpenAI's API can ask an agent: the address is the server's, the key a token, the model an agent.

    tornado-chat serve --agent demo &
    pip install openai
    CHAT_TOKEN=$(tornado-chat token --user ann) python examples/openai_client.py "What can you do?"

CHAT_URL and CHAT_AGENT name another server and another agent.
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("CHAT_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ["CHAT_TOKEN"],
)
agent = os.environ.get("CHAT_AGENT", "demo")
question = " ".join(sys.argv[1:]) or "Hello!"

# A chat completion: the request has all that was said before.
stream = client.chat.completions.create(
    model=agent,
    messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

# A response: it goes on without whoever asked, and is there to be fetched, or to be gone on with.
started = client.responses.create(model=agent, input=question, background=True)
for event in client.responses.retrieve(started.id, stream=True):
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
done = client.responses.retrieve(started.id)
assert done.metadata is not None
print(f"\n{done.status}; anybody whose token covers it may open the room {done.metadata['room']}")
