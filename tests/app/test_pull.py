"""Fetching from a hub: a server on this machine speaks the hub's language, cuts connections and damages files.

Some pulls are killed, some meet files that are a person's own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kodkod_app import hub as hub_module
from kodkod_app.cli import main
from kodkod_app.hub import ORIGIN_NAME, Hub, PullFault, pull
from kodkod_engine.errors import FolderBusy
from kodkod_engine.only_writer import only_writer

COMMIT = "c" * 40
Usage = namedtuple("Usage", "total used free")


class FakeHub(ThreadingHTTPServer):
    """Holds one repository; `cuts` says after how many bytes of which file a connection breaks, once.

    `stalls` says likewise where one stands still, until the server is closed; `has_ranges` whether parts can be had.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 400, "pickle.bin": b"not wanted"}
        self.cuts: dict[str, int] = {}
        self.damage: dict[str, int] = {}
        self.stalls: dict[str, int] = {}
        self.has_ranges = True
        self.closing = threading.Event()
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
            self._file(path.removeprefix(f"/me/tiny/resolve/{COMMIT}/"), is_head)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, is_head)

    def _file(self, name: str, is_head: bool) -> None:
        data = self.server.files[name]
        start = 0
        if (given := self.headers.get("Range")) and self.server.has_ranges:
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
            self.server.stalls.pop(name, None) if not is_head else None,
        )

    def _send(
        self,
        code: int,
        body: bytes,
        headers: dict[str, str],
        is_head: bool,
        cut: int | None = None,
        stall: int | None = None,
    ) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if is_head:
            return
        if stall is not None:
            self.wfile.write(body[:stall])
            self.wfile.flush()
            self.server.closing.wait()
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
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _pull(server: FakeHub, folder: Path) -> None:
    pulled = pull(Hub("me/tiny", endpoint=server.url), folder)
    assert pulled.commit == COMMIT
    assert pulled.num_files == 2


def _assert_whole(server: FakeHub, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", ORIGIN_NAME}
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


PULL = "from kodkod_app.cli import main; main()"
SMALL_PIECES = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 4096; "


def test_a_pull_that_was_killed_asks_for_the_rest_alone(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.stalls["model.safetensors"] = 60_000
    command = [sys.executable, "-c", SMALL_PIECES + PULL, "pull", "me/tiny", str(tmp_path), "--endpoint", fake_hub.url]
    part = tmp_path / "model.safetensors.part"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (part.exists() and part.stat().st_size >= 50_000):
            assert process.poll() is None, "the pull ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    here = part.stat().st_size
    _pull(fake_hub, tmp_path)
    assert fake_hub.ranges == [f"bytes={here}-"]
    _assert_whole(fake_hub, tmp_path)


def test_a_hub_that_serves_no_parts_is_asked_for_the_whole(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.has_ranges = False
    (tmp_path / "model.safetensors.part").write_bytes(fake_hub.files["model.safetensors"][:7000])
    _pull(fake_hub, tmp_path)
    _assert_whole(fake_hub, tmp_path)


@pytest.mark.parametrize("begun", [b"something else", bytes(200_000)])
def test_a_part_of_something_else_is_not_kept(fake_hub: FakeHub, tmp_path: Path, begun: bytes) -> None:
    (tmp_path / "model.safetensors.part").write_bytes(begun)
    _pull(fake_hub, tmp_path)
    _assert_whole(fake_hub, tmp_path)


def test_files_of_ones_own_stay(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.files["README.md"] = b"theirs"
    own = {
        tmp_path / ".cache" / "pip" / "wheel": "mine",
        tmp_path / "notes.txt": "mine",
        tmp_path / "README.md": "mine",
    }
    for path, text in own.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(PullFault, match=r"has a file README\.md of its own"):
        pull(Hub("me/tiny", endpoint=fake_hub.url), tmp_path)
    assert not fake_hub.served
    (tmp_path / "README.md").rename(tmp_path / "MINE.md")
    pull(Hub("me/tiny", endpoint=fake_hub.url), tmp_path)
    assert (tmp_path / "README.md").read_bytes() == b"theirs"
    assert [path.read_text() for path in own] == ["mine", "mine", "theirs"]


def test_another_repository_does_not_replace_the_first(fake_hub: FakeHub, tmp_path: Path) -> None:
    _pull(fake_hub, tmp_path)
    origin = tmp_path / ORIGIN_NAME
    fake_hub.files["config.json"] = b'{"newer": true}'
    for text in (origin.read_text().replace("me/tiny", "me/other"), "{}", "\0"):
        origin.write_text(text)
        with pytest.raises(PullFault, match=r"has a file config\.json of its own"):
            _pull(fake_hub, tmp_path)
    origin.write_text('{"repository": "me/tiny", "commit": "an earlier one"}')
    _pull(fake_hub, tmp_path)
    _assert_whole(fake_hub, tmp_path)


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "a/../../evil.json"])
def test_a_name_that_leads_out_of_the_folder(fake_hub: FakeHub, tmp_path: Path, name: str) -> None:
    fake_hub.files[name] = b"{}"
    with pytest.raises(PullFault, match="names a file outside the folder"):
        pull(Hub("me/tiny", endpoint=fake_hub.url), tmp_path / "in")
    assert not fake_hub.served


def test_a_file_in_a_folder_of_the_repository(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.files = {"extra/config.json": b"{}"}
    pull(Hub("me/tiny", endpoint=fake_hub.url), tmp_path)
    assert (tmp_path / "extra" / "config.json").read_bytes() == b"{}"


def test_the_meter_moves_inside_a_file_and_while_checking(fake_hub: FakeHub, tmp_path: Path) -> None:
    total = sum(len(fake_hub.files[name]) for name in ("config.json", "model.safetensors"))
    for at_least in (10, 1):
        moves: list[int] = []
        pull(Hub("me/tiny", endpoint=fake_hub.url), tmp_path, lambda done, _all, moves=moves: moves.append(done))
        assert moves[-1] == total
        assert sum(0 < done < total for done in moves) >= at_least


def test_two_pulls_at_once(fake_hub: FakeHub, tmp_path: Path) -> None:
    with only_writer(tmp_path), pytest.raises(FolderBusy, match="another process is writing to it"):
        _pull(fake_hub, tmp_path)
    _pull(fake_hub, tmp_path)


def test_a_full_disk_keeps_what_arrived(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_url: str, handle: object, **_options: object) -> None:
        handle.write(b"some")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(PullFault, match="the disk is full; make room and pull again"):
            _pull(fake_hub, tmp_path)
    assert (tmp_path / "config.json.part").read_bytes() == b"some"


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be(
    fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        main(["pull", "me/tiny", str(tmp_path / place), "--endpoint", fake_hub.url])
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip().endswith("; give another folder")


def test_a_copy_in_the_hubs_own_cache_is_taken(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cached"
    cached.write_bytes(fake_hub.files["model.safetensors"])

    def look_up(_repository: str, name: str, revision: str) -> str | None:
        assert revision == COMMIT
        return str(cached) if name == "model.safetensors" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look_up)
    _pull(fake_hub, tmp_path / "once")
    _assert_whole(fake_hub, tmp_path / "once")
    assert fake_hub.served == ["config.json"]
    cached.write_bytes(b"damaged")
    _pull(fake_hub, tmp_path / "damaged")
    _assert_whole(fake_hub, tmp_path / "damaged")
