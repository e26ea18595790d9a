"""Receives webhooks: WEBHOOK_SECRET=whsec_… PORT=3000 python3 webhook-receiver.py, with the standard library alone."""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

SECRET = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
TOLERANCE_SECONDS = 300
MAX_BYTES = 256 * 1024

# What has been taken: keep it in your database, in the transaction that does what follows from the event.
seen: set[str] = set()
versions: dict[str, int] = {}
lock = Lock()


def verify(headers, body: bytes) -> bool:
    event_id = headers.get("webhook-id", "")
    at = headers.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE_SECONDS:
        return False
    wanted = hmac.new(SECRET, f"{event_id}.{at}.".encode() + body, hashlib.sha256).digest()
    wanted = "v1," + base64.b64encode(wanted).decode()
    # Two signatures while a secret is rotated: one has to fit.
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(one.encode(), wanted.encode()) for one in given)


def take(event: dict) -> None:
    thing = event["data"]["object"]
    with lock:
        # At least once, in any order: an event that was taken, and a state older than the known one, are passed over.
        is_news = event["id"] not in seen and thing["version"] > versions.get(thing["id"], 0)
        seen.add(event["id"])
        if is_news:
            versions[thing["id"]] = thing["version"]
    word = "new" if is_news else "old"
    print(word, "", event["sequence"], event["type"], thing["id"], thing.get("status", ""), flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", 0))
        # The bytes as they came: parsing and writing them again would change them.
        body = self.rfile.read(size) if size <= MAX_BYTES else b""
        self.close_connection = size > MAX_BYTES
        is_ours = verify(self.headers, body)
        if is_ours:
            take(json.loads(body))
        # Answer within 15 seconds; work that takes longer is done afterwards.
        self.send_response(204 if is_ours else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Receiver)
print("ready", flush=True)
server.serve_forever()
