"""Shows a board to browsers on this machine."""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

from pwm.board.pages import Board, RunPage
from pwm.errors import ConfigError, PwmError

# Nobody else can connect.
HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
TYPES = {
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".html": "text/html; charset=utf-8",
}
# Pages load nothing but what they bring and what lies beside them.
POLICY = "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'"


def make_server(board: Board, port: int) -> ThreadingHTTPServer:
    """Return a server of ``board`` on ``port`` (0: any that is free) that has not begun.

    Raises:
        ConfigError: the port cannot be used.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of somebody else can let its own name stand for this address.
            if self.headers.get("Host", "").rpartition(":")[0] not in NAMES:
                self._send(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"ask for http://127.0.0.1")
                return
            try:
                answer = page(board, unquote(urlparse(self.path).path))
            except PwmError as error:
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", str(error).encode())
                return
            if answer is None:
                self._send(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"there is no such page")
            else:
                self._send(HTTPStatus.OK, *answer)

        def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of every request."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--port {port} cannot be used: {error}; 0 takes any that is free") from error


def page(board: Board, path: str) -> tuple[str, bytes] | None:
    """Return type and content of what lies at ``path``; None if nothing does."""
    parts = [part for part in path.split("/") if part]
    if parts in ([], ["index.html"]):
        return TYPES[".html"], board.index().encode()
    if parts[0] == "reports":
        return _report(board, Path(*parts[1:]))
    if parts[0] != "runs" or len(parts) not in (2, 3):
        return None
    key = parts[1].removesuffix(".html") if len(parts) == 2 else parts[1]
    run = board.find(key)
    if run is None:
        return None
    return (TYPES[".html"], board.run(run).encode()) if len(parts) == 2 else _file(board, run, parts[2])


def _file(board: Board, run: RunPage, name: str) -> tuple[str, bytes] | None:
    """A picture or film of the run: one of those that its page lists, and nothing else."""
    path = next((path for path in board.files(run) if path.name == name), None)
    return None if path is None else (TYPES[path.suffix], path.read_bytes())


def _report(board: Board, name: Path) -> tuple[str, bytes] | None:
    return (TYPES[".html"], (board.top / name).read_bytes()) if name in board.reports() else None
