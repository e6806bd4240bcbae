"""The answers of a W&B server that its client needs to upload runs, kept in memory.

The client is the real one; only the machine it talks to is this one, because the real one needs an account.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Uploaded:
    """What the server holds of one run."""

    project: str = ""
    group: str | None = None
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)


class WandBServer(ThreadingHTTPServer):
    """Listens on a free port of this machine; ``runs`` fills by run id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, Uploaded] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        """Refuse every connection from now on."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors, except that the client drops connections it no longer needs."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Data of one GraphQL reply."""
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "someone"}}
        if operation == "Viewer":
            who = {"id": "u", "entity": "someone", "username": "someone", "flags": "{}"}
            return {"viewer": who | {"teams": {"edges": []}}}
        if operation == "RunResumeStatus":
            held = self.runs.get(variables["name"])
            return {"model": None if held is None else project | {"bucket": _bucket(variables["name"], held)}}
        if operation == "UpsertBucket":
            return {"upsertBucket": self.upsert(variables, project)}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def upsert(self, variables: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
        new = variables["name"] not in self.runs
        run = self.runs.setdefault(variables["name"], Uploaded())
        # Later messages repeat the run with some of its properties only.
        run.project = run.project or variables["project"]
        run.group = variables["groupName"] or run.group
        run.name = variables["displayName"] or run.name
        run.config |= {k: v["value"] for k, v in json.loads(variables["config"] or "{}").items()}
        bucket = {"id": "b", "name": variables["name"], "displayName": run.name, "project": project}
        return {"bucket": bucket | {"description": "", "config": "{}", "sweepName": None}, "inserted": new}

    def stream(self, run: Uploaded, message: dict[str, Any]) -> None:
        """Take in one message of the stream of history and summary."""
        for name, chunk in message.get("files", {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                assert chunk["offset"] == len(run.history)
                run.history += lines
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
        if message.get("exitcode") is not None:
            run.exit_codes.append(message["exitcode"])


def _bucket(name: str, held: Uploaded) -> dict[str, Any]:
    tail = json.dumps([json.dumps(held.history[-1])] if held.history else [])
    return {
        "id": "b",
        "name": name,
        "historyLineCount": len(held.history),
        "eventsLineCount": 0,
        "logLineCount": 0,
        "historyTail": tail,
        "eventsTail": "[]",
        "summaryMetrics": json.dumps(held.summary),
        "config": "{}",
        "wandbConfig": '{"t": 1}',
        "tags": [],
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandBServer

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    def reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def do_PUT(self) -> None:
        self.body()
        self.reply({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            request = json.loads(body)
            (operation,) = re.findall(r"^(?:query|mutation) (\w+)", request["query"], re.MULTILINE)
            self.reply({"data": self.server.answer(operation, request.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.server.runs[self.path.split("/")[-2]], json.loads(body))
            self.reply({"exitcode": None, "limits": {}})
        else:
            self.reply({})
