"""Ask an agent from a script, and print the answer as it comes; then leave a word in the lobby.

make run, tornado-chat agent demo, and: python examples/script.py what can you do?
"""

import os
import sys

from tornado_chat.client.sync import Chat

with Chat(os.environ.get("TORNADO_CHAT_URL", "http://127.0.0.1:8080"), name="a script") as chat:
    for piece in chat.ask(os.environ.get("AGENT", "demo"), " ".join(sys.argv[1:]) or "hello"):
        print(piece, end="", flush=True)
    chat.send("lobby", "I have asked demo something.")
