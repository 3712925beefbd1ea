"""Prints the data of each event of the stream at argv[1], and comes back as sseclient-py leaves it to its user."""

from __future__ import annotations

import sys
import time

import httpx
from sseclient import SSEClient

last_id, retry = "", 1.0
with httpx.Client(timeout=30) as client:
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            with client.stream("GET", sys.argv[1], headers=headers) as response:
                for event in SSEClient(response.iter_bytes()).events():
                    last_id = event.id or last_id
                    retry = int(event.retry) / 1000 if event.retry else retry
                    if event.event == "message":
                        print(event.data, flush=True)
        except httpx.TransportError:
            pass  # it was cut off, or nobody is there
        time.sleep(retry)
