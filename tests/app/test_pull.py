"""Fetching from a hub: a server on this machine speaks the hub's language, cuts connections and damages files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kodkod_app import hub as hub_module
from kodkod_app.hub import Hub, PullFault, pull

COMMIT = "c" * 40
Usage = namedtuple("Usage", "total used free")


class FakeHub(ThreadingHTTPServer):
    """Holds one repository; `cuts` says after how many bytes of which file a connection breaks, once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 400, "pickle.bin": b"not wanted"}
        self.cuts: dict[str, int] = {}
        self.damage: dict[str, int] = {}
        self.ranges: list[str] = []
        self.served: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def siblings(self) -> list[dict[str, object]]:
        return [self._sibling(name, data) for name, data in self.files.items()]

    @staticmethod
    def _sibling(name: str, data: bytes) -> dict[str, object]:
        own: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
        if name.endswith(".safetensors"):
            own["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return own


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/tiny"):
            body = {"id": "me/tiny", "sha": COMMIT, "siblings": self.server.siblings(), "private": False, "tags": []}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, is_head)
        elif path.startswith(f"/me/tiny/resolve/{COMMIT}/"):
            self._file(path.rpartition("/")[2], is_head)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, is_head)

    def _file(self, name: str, is_head: bool) -> None:
        data = self.server.files[name]
        start = 0
        if given := self.headers.get("Range"):
            self.server.ranges.append(given)
            start = int(given.removeprefix("bytes=").partition("-")[0])
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}",
        }
        if not is_head:
            self.server.served.append(name)
        if self.server.damage.get(name, 0) > 0 and not is_head:
            self.server.damage[name] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._send(
            206 if start else 200,
            data[start:],
            headers,
            is_head,
            self.server.cuts.pop(name, None) if not is_head else None,
        )

    def _send(self, code: int, body: bytes, headers: dict[str, str], is_head: bool, cut: int | None = None) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if is_head:
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # what arrives is written in such pieces
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _pull(server: FakeHub, folder: Path) -> None:
    pulled = pull(Hub("me/tiny", endpoint=server.url), folder)
    assert pulled.commit == COMMIT
    assert pulled.num_files == 2


def _assert_whole(server: FakeHub, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert all((folder / name).read_bytes() == server.files[name] for name in ("config.json", "model.safetensors"))


def test_fetches_the_files_of_a_checkpoint_and_nothing_twice(fake_hub: FakeHub, tmp_path: Path) -> None:
    _pull(fake_hub, tmp_path)
    _assert_whole(fake_hub, tmp_path)
    fake_hub.served.clear()
    _pull(fake_hub, tmp_path)
    assert not fake_hub.served


def test_a_cut_connection_is_taken_up_where_it_broke(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.cuts["model.safetensors"] = 60_000
    try:
        _pull(fake_hub, tmp_path)
    except PullFault as fault:
        assert "it goes on where it was" in str(fault)  # noqa: PT017  # both ways are right: taken up at once, or later
        _pull(fake_hub, tmp_path)
    _assert_whole(fake_hub, tmp_path)
    assert any(int(given.removeprefix("bytes=").partition("-")[0]) > 0 for given in fake_hub.ranges)


def test_a_half_downloaded_file_is_fetched_again(fake_hub: FakeHub, tmp_path: Path) -> None:
    _pull(fake_hub, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    _pull(fake_hub, tmp_path)
    _assert_whole(fake_hub, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_fetched_again_and_then_refused(fake_hub: FakeHub, tmp_path: Path, name: str) -> None:
    fake_hub.damage[name] = 1
    _pull(fake_hub, tmp_path / "once")
    _assert_whole(fake_hub, tmp_path / "once")
    fake_hub.damage[name] = 99
    with pytest.raises(PullFault, match="arrived damaged 2 times"):
        _pull(fake_hub, tmp_path / "always")
    assert not (tmp_path / "always" / name).exists()


def test_no_such_repository(fake_hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(PullFault, match="check the name"):
        pull(Hub("me/other", endpoint=fake_hub.url), tmp_path)


def test_no_hub(tmp_path: Path) -> None:
    with pytest.raises(PullFault, match="check the network"):
        pull(Hub("me/tiny", endpoint="http://127.0.0.1:9"), tmp_path)


def test_too_little_room(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _path: Usage(1, 1, 0))
    with pytest.raises(PullFault, match=r"0\.00 GB more are needed"):
        _pull(fake_hub, tmp_path)
    assert not fake_hub.served
