"""Receives webhooks: WEBHOOK_SECRET=whsec_… PORT=3000 python3 webhook-receiver.py, with the standard library only."""

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

# Handled events. Keep them in your database, and write them in the transaction that handles the event.
seen: set[str] = set()
versions: dict[str, int] = {}
lock = Lock()


def verify(headers, body: bytes) -> bool:
    event_id = headers.get("webhook-id", "")
    at = headers.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE_SECONDS:
        return False
    expected = hmac.new(SECRET, f"{event_id}.{at}.".encode() + body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(expected).decode()
    # There are two signatures while a secret is rotated; one must match.
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(one.encode(), expected.encode()) for one in given)


def handle(event: dict) -> None:
    resource = event["data"]["object"]
    with lock:
        # Events can arrive twice and out of order: ignore handled events and versions that are not newer.
        is_new = event["id"] not in seen and resource["version"] > versions.get(resource["id"], 0)
        seen.add(event["id"])
        if is_new:
            versions[resource["id"]] = resource["version"]
    label = "new" if is_new else "old"
    print(label, "", event["sequence"], event["type"], resource["id"], resource.get("status", ""), flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", 0))
        # Verify the bytes as received; serializing the parsed body could change them.
        body = self.rfile.read(size) if size <= MAX_BYTES else b""
        self.close_connection = size > MAX_BYTES
        is_valid = verify(self.headers, body)
        if is_valid:
            handle(json.loads(body))
        # Respond within 15 seconds; do longer work after the response.
        self.send_response(204 if is_valid else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Receiver)
print("ready", flush=True)
server.serve_forever()
