"""Prints the data of each event of the stream at argv[1], and comes back as httpx-sse leaves it to its user."""

from __future__ import annotations

import sys
import time

import httpx
from httpx_sse import connect_sse

last_id, retry = "", 1.0
with httpx.Client(timeout=30) as client:
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with connect_sse(client, "GET", sys.argv[1], headers=headers) as source:
                for event in source.iter_sse():
                    last_id = event.id or last_id
                    retry = event.retry / 1000 if event.retry is not None else retry
                    if event.event == "message":
                        print(event.data, flush=True)
        except httpx.TransportError:
            pass  # it was cut off, or nobody is there
        time.sleep(retry)
