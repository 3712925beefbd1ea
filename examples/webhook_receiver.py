"""A program that is told of what is said: each message once, in the order of its room, whatever was killed meanwhile.

    pip install standardwebhooks tornado
    tornado-chat webhook add http://127.0.0.1:9000/chat --events message,finished    # prints the secret
    WEBHOOK_SECRET=whsec_... python examples/webhook_receiver.py 9000

Then say something in any room.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys

from standardwebhooks import Webhook, WebhookVerificationError
from tornado.web import Application, RequestHandler

webhook = Webhook(os.environ["WEBHOOK_SECRET"])
db = sqlite3.connect(os.environ.get("WEBHOOK_DATABASE", "told.db"), isolation_level=None)
db.execute("CREATE TABLE IF NOT EXISTS told (id TEXT PRIMARY KEY, room TEXT, text TEXT)")


class Told(RequestHandler):
    def post(self) -> None:
        headers = {name.lower(): value for name, value in self.request.headers.items()}
        try:
            webhook.verify(self.request.body, headers)  # the bytes as they came
        except WebhookVerificationError:
            self.send_error(401)
            return
        data = json.loads(self.request.body)["data"]
        # It may come again, under the same id: then it is there already. 204 says that it need not.
        row = (headers["webhook-id"], data["room"], data.get("text"))
        if db.execute("INSERT OR IGNORE INTO told VALUES (?, ?, ?)", row).rowcount:
            print(f"{data['room']} {data['seq']}: {data.get('text', '(deleted)')}", flush=True)
        self.set_status(204)


async def main() -> None:
    Application([("/chat", Told)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
