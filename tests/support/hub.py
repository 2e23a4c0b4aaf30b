"""A data set as the Hugging Face Hub keeps it: in the client's cache, or behind a server on this machine."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import pytest

REPOSITORY = "owner/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def use_cache(folder: Path, patch: pytest.MonkeyPatch, *, offline: bool = True) -> None:
    """Makes `folder` the client's cache."""
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)


def use_server(address: str, patch: pytest.MonkeyPatch) -> None:
    """Makes the client ask the server at `address`; HF_ENDPOINT does so in a new process."""
    patch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def write_cache(folder: Path, files: Mapping[str, bytes], revision: str = "main") -> Path:
    """Files of REPOSITORY in the layout of the client's cache; its snapshot's folder."""
    data_set = folder / f"datasets--{REPOSITORY.replace('/', '--')}"
    snapshot = data_set / "snapshots" / COMMIT
    (data_set / "blobs").mkdir(parents=True, exist_ok=True)
    reference = data_set / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(COMMIT)
    for name, content in files.items():
        blob = data_set / "blobs" / hashlib.sha1(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a server that answers the client's requests about REPOSITORY."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/datasets/{REPOSITORY}/tree/"):
                listed = [{"type": "file", "path": k, "size": len(v), "oid": k} for k, v in files.items()]
                self._answer(json.dumps(listed).encode())
            elif path.startswith(f"/api/datasets/{REPOSITORY}/"):
                self._answer(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode())
            else:
                content = files.get(path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"))
                self._answer(content or b"", 200 if content else 404)

        do_HEAD = do_GET

        def _answer(self, content: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
