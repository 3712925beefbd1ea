"""A room of people and agents in Streamlit: what others say comes by itself, and replies grow while you click on.

    make run                                     # the server, in one shell
    tornado-chat agent demo                      # an agent, in another
    pip install streamlit
    streamlit run examples/streamlit_chat.py

Then write `@demo hello`. The client lives in a thread of its own and holds the room: a run of this script only looks at
it. So nothing is lost or doubled however often the script is run again, and nothing here is async.
"""

from __future__ import annotations

import os

import streamlit as st

from tornado_chat.client.sync import Chat

URL = os.environ.get("TORNADO_CHAT_URL", "http://127.0.0.1:8080")
ROOM = "lobby"


@st.cache_resource(scope="session", max_entries=1, on_release=Chat.close)
def connect(name: str) -> Chat:
    """One client for each browser tab; it is closed with the tab."""
    return Chat(URL, name=name)


st.title(ROOM)
name = st.sidebar.text_input("Your name", key="name")
if not name:
    st.info("What is your name? Write it on the left.")
    st.stop()
count = st.sidebar.slider("Messages", 5, 200, 50)
chat = connect(name)
room = chat.join(ROOM, last=200)  # joined already: the same one


@st.fragment(run_every=0.5)
def show() -> None:
    """This alone is run again, twice a second; it waits for nothing."""
    for message in room.messages[-count:]:
        if "deleted" in message:
            continue
        with st.chat_message("assistant" if message.get("agent") else "user"):
            st.caption(message["name"])
            grows = message.get("streaming", False)
            st.markdown(message["text"] + (" ▌" if grows else ""))
            if grows and message.get("reply_to"):
                st.button("Stop", key=f"stop {message['seq']}", on_click=chat.stop, args=(ROOM, message["seq"]))


show()
if text := st.chat_input("Message"):
    room.send(text)
