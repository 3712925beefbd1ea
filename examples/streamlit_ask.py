"""A conversation with one agent in Streamlit, by `st.write_stream`.

    make run                                     # the server, in one shell
    tornado-chat agent demo                      # an agent, in another
    pip install streamlit
    streamlit run examples/streamlit_ask.py

A run of the script that comes in the middle of an answer ends `st.write_stream`, and not the answer: the client goes on
in its thread, and the next run has it from its first word on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import streamlit as st

from tornado_chat.client import Failed
from tornado_chat.client.sync import Answer, Chat

URL = os.environ.get("TORNADO_CHAT_URL", "http://127.0.0.1:8080")
AGENT = os.environ.get("AGENT", "demo")

if "chat" not in st.session_state:  # one for each session; it is closed when that is forgotten
    st.session_state.chat = Chat(URL, name="Streamlit")
    st.session_state.asked = []
chat: Chat = st.session_state.chat
asked: list[tuple[str, Answer]] = st.session_state.asked


def pieces(answer: Answer) -> Iterator[str]:
    waiting = st.empty()
    for piece in answer.pieces(tick=0.5):
        waiting.caption("" if answer.text else "…")  # a call of `st`, so that this run can end while nothing comes
        yield piece


st.title(f"Ask {AGENT}")
if st.sidebar.toggle("Tell the room") and asked:
    st.sidebar.write(f"This conversation is the room {asked[0][1].room}.")
if question := st.chat_input("Question"):
    # All in one room, so the agent knows what was said before. People can open it, too.
    asked.append((question, chat.ask(AGENT, question, room=asked[0][1].room if asked else None)))
for question, answer in asked:
    st.chat_message("user").markdown(question)
    with st.chat_message("assistant"):
        stop = st.empty()
        if not answer.ended:
            stop.button("Stop", key=answer.id, on_click=answer.stop)
        try:
            st.write_stream(pieces(answer))
        except (Failed, TimeoutError) as error:
            st.error(str(error))
        stop.empty()
