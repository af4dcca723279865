"""One file over HTTP: goes on after a cut connection, and in a later process.

urllib from the standard library, as no HTTP client is among the dependencies. `NAME.part` holds the bytes so far,
`NAME.part.json` which file they are of: its address, total, and ETag or date. The server is asked to go on only if it
still has that same file (RFC 9110, If-Range), else the download starts over.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.message import Message
from io import FileIO
from pathlib import Path
from typing import IO

from tqdm import tqdm

from bench import __version__
from bench.errors import DataError

_CHUNK = 1 << 18
_PROGRESS = 1 << 20  # bytes after which a cut connection counts as the first one again
_MOST = 64 << 30  # bytes of a file whose size nobody tells
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


class _Cut(Exception):
    """The connection failed, or the server's answer does not fit; trying again may help."""


@dataclass(frozen=True)
class Patience:
    """When to give up.

    Attributes:
        attempts: failures in a row, without progress in between.
        timeout: seconds without any byte.
        pause: seconds to wait after the first failure, doubled each time.
    """

    attempts: int = 5
    timeout: float = 60.0
    pause: float = 1.0


@dataclass(frozen=True)
class _State:
    """Which file the bytes of a `.part` belong to."""

    url: str
    total: int
    validator: str | None


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(("http://", "https://")):
            raise DataError(f"leads to {newurl}, which is not on the web")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https addresses, and nothing else: no files, no ftp, no data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _HttpOnly(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"bench/{__version__}")]
    return opener


def download(url: str, part: Path, size: int | None, patience: Patience, progress: bool = False) -> None:
    """Fill `part` with the whole file; what it holds already is used if it is of the same file.

    Args:
        url: http or https.
        part: the file to fill, `NAME.part`.
        size: expected bytes, if known.
        patience: when to give up.
        progress: show a bar.

    Raises:
        DataError: refused, not there, of another size, or cut off too often; `part` keeps what came.
    """
    failures, furthest = 0, _size(part)
    while True:
        try:
            _stream(url, part, size, patience.timeout, progress)
            return
        except _Cut as cut:
            # Beyond the furthest so far: starting over again and again is no progress.
            further = _size(part) >= furthest + _PROGRESS
            failures, furthest = (1, _size(part)) if further else (failures + 1, furthest)
            if failures >= patience.attempts:
                raise DataError(f"failed {failures} times ({cut})") from None
            time.sleep(patience.pause * 2 ** (failures - 1))


def forget(part: Path) -> None:
    """Remove a partial download. The state goes first, so that a kill in between leaves no false one."""
    for path in (_state_file(part), part):
        with suppress(FileNotFoundError):
            path.unlink()


def _stream(url: str, part: Path, size: int | None, timeout: float, progress: bool) -> None:
    """Ask once, from where `part` ends, and write what comes."""
    state = _read_state(part)
    start = _size(part) if state and state.url == url else 0
    if state and start and start == state.total:
        return  # a run was killed between the last byte and the check of the hash
    headers = {"Accept-Encoding": "identity"}
    if state and start and state.validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": state.validator}
    try:
        with _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            start, total = _agree(response, url, part, state, start)
            if size is not None and total not in (None, size):
                raise DataError(f"is {total:,} bytes there instead of {size:,}: another file or version")
            _write(response, part, start, total, size, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file there has become shorter
            forget(part)
        if error.code in _TRANSIENT_STATUS or error.code == 416:
            raise _Cut(f"HTTP {error.code} {error.reason}") from None
        raise DataError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise DataError(f"has no certificate that this machine trusts ({error})") from None
        raise _Cut(str(error) or type(error).__name__) from None
    except ValueError as error:
        raise DataError(f"is no address, or leads to one that is none ({error})") from None


def _agree(
    response: http.client.HTTPResponse, url: str, part: Path, state: _State | None, start: int
) -> tuple[int, int | None]:
    """Where the server's bytes begin, and the size of the whole file; the state on disk is made to fit."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if state is None or not found or (int(found[1]), int(found[2])) != (start, state.total):
            forget(part)
            raise _Cut("the file changed, or the server did not go on where it should")
        return start, state.total
    if response.status != 200:
        raise DataError(f"HTTP {response.status} instead of a file")
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isascii() and length.isdigit() else None
    etag = response.headers.get("ETag", "")
    strong = etag if etag.startswith('"') else None  # weak ones (W/"...") may not be used for this
    forget(part)
    if total is not None:
        _write_state(part, _State(url, total, strong or response.headers.get("Last-Modified")))
    return 0, total


def _write(
    response: http.client.HTTPResponse, part: Path, start: int, total: int | None, size: int | None, progress: bool
) -> None:
    expected = size if total is None else total
    most = _MOST if expected is None else expected
    at = start
    bar = tqdm(total=expected, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=not progress)
    with _opened(part, start) as file, bar:
        while at != total and (chunk := response.read1(_CHUNK)):
            at += len(chunk)
            if at > most:
                raise DataError(f"sends more than {most:,} bytes: another file or version")
            _put(file, chunk, part)
            bar.update(len(chunk))
    if expected is not None and at < expected:
        raise _Cut(f"cut off after {at:,} of {expected:,} bytes")


def _opened(part: Path, start: int) -> FileIO:
    try:
        return part.open("ab" if start else "wb", buffering=0)
    except OSError as error:
        raise _unwritable(part, error) from None


def _put(file: FileIO, chunk: bytes, part: Path) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise _unwritable(part, error) from None


def _unwritable(part: Path, error: OSError) -> DataError:
    return DataError(f"{part} cannot be written ({error.strerror})")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _state_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_state(part: Path) -> _State | None:
    try:
        return _State(**json.loads(_state_file(part).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(part: Path, state: _State) -> None:
    temporary = _state_file(part).with_suffix(".tmp")
    try:
        part.write_bytes(b"")
        temporary.write_text(json.dumps(asdict(state)), "utf-8")
        os.replace(temporary, _state_file(part))
    except OSError as error:
        raise _unwritable(part, error) from None
