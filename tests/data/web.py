"""A web site on this machine for tests of downloads."""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bench.data.fetch import Source


class Site:
    """A web site whose behaviour a test sets."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.status: dict[str, list[int]] = {}  # answers to give before the file
        self.redirects: dict[str, str] = {}
        self.cuts: list[int] = []  # bytes after which the next answers are cut off
        self.ranges = True
        self.checks_if_range = True
        self.length = True
        self.claims: int | None = None  # a false Content-Length
        self.pace = 0.0  # seconds before each 64 kB
        self.hangs = False
        self.etag = '"1"'
        self.seen: list[tuple[str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Site:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        asked = to.headers.get("Range")
        self.seen.append((to.path, asked))
        if self.hangs:
            time.sleep(1)
            return
        if to.path in self.redirects:
            to.send_response(302)
            to.send_header("Location", self.redirects[to.path])
            to.end_headers()
            return
        if self.status.get(to.path):
            to.send_error(self.status[to.path].pop(0))
            return
        if to.path not in self.files:
            to.send_error(404)
            return
        body = self.files[to.path]
        same = not self.checks_if_range or to.headers.get("If-Range") == self.etag
        start = int(asked[6:-1]) if asked and self.ranges and same else 0
        to.send_response(206 if start else 200)
        if start:
            to.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.length:
            to.send_header("Content-Length", str(self.claims or len(body) - start))
        to.send_header("ETag", self.etag)
        to.end_headers()
        self.send(to, body[start : start + self.cuts.pop(0)] if self.cuts else body[start:])

    def send(self, to: BaseHTTPRequestHandler, body: bytes) -> None:
        try:
            for at in range(0, len(body), 1 << 16):
                time.sleep(self.pace)
                to.wfile.write(body[at : at + (1 << 16)])
        except ConnectionError:
            pass  # the client was killed, or had enough


def entry(content: bytes, *urls: str, name: str = "a.bin", **more: Any) -> dict[str, Any]:
    """What a file of sources says on a file of this content."""
    facts = {"size": len(content), "md5": hashlib.md5(content).hexdigest(), "keep": "set"}
    return {"name": name, "urls": list(urls), **facts, **more}


def source(*files: dict[str, Any], **more: Any) -> Source:
    return Source.model_validate({"files": list(files), "get": "Ask.", **more})
