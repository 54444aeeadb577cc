"""The Docker daemon, in the words the box needs. The one file that knows the Docker SDK, which has no types.

Every call blocks: call from a thread. Faults of the daemon come out as `SandboxError`s.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import docker  # type: ignore[import-untyped]  # the SDK ships no type information
import docker.errors  # type: ignore[import-untyped]  # as above
import docker.types  # type: ignore[import-untyped]  # as above
import requests  # type: ignore[import-untyped,unused-ignore]  # a dependency of the SDK, whose faults it lets through

from kodkod_sandbox.build_output import BuildOutput
from kodkod_sandbox.errors import ImageError, SandboxLost, SandboxUnavailable

OWNER_LABEL = "kodkod.owner"
STAGE_LABEL = "kodkod.stage"
"""On what a build leaves of its first stage: which image it was for."""
_SHORT_S = 60
_BUILD_S = 1800
"""How long a build may be silent."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of this machine, shown in a container."""

    source: Path
    target: Path
    read_only: bool


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """All that a container is made from."""

    image: str
    argv: Sequence[str]
    owner: str
    user: str
    mounts: Sequence[Mount]
    tmpfs: Mapping[str, str]
    memory_bytes: int
    shared_memory_bytes: int
    pids: int
    file_bytes: int
    cpus: float
    network: bool
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecState:
    """How a command in a container stands."""

    running: bool
    exit_code: int


class Attachment:
    """The connection that carries a command's input and outputs. A plain socket, for asyncio to drive."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._response = stream._response
        self.socket: socket.socket = stream._sock
        self.socket.setblocking(False)
        # The SDK reads the response's head through a buffer, which may hold the first output already.
        self.first_bytes: bytes = self._response.raw._fp.fp.peek() or b""

    def close(self) -> None:
        """Let go of the connection. Does not end the command."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._stream.close()
        self.socket.close()


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except docker.errors.NotFound as cause:
        raise SandboxLost(f"{doing}: the container is gone ({cause.explanation})") from cause
    except docker.errors.DockerException as cause:
        raise SandboxLost(f"{doing}: Docker refused ({' '.join(str(cause).split())})") from cause
    except (requests.RequestException, OSError) as cause:
        raise SandboxLost(f"{doing}: the Docker daemon does not answer; is it still running?") from cause


def _knock() -> None:
    """Connect to the daemon's socket once. The SDK would not close a socket on which nobody answers."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(host.removeprefix("unix://"))


def _bound(mount: Mount) -> Any:
    return docker.types.Mount(
        str(mount.target), str(mount.source), type="bind", read_only=mount.read_only, propagation="rprivate"
    )


def _capped(name: str, limit: int) -> Any:
    return docker.types.Ulimit(name=name, soft=limit, hard=limit)


class Daemon:
    """One connection to the daemon on this machine."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._api = client.api

    @classmethod
    def connect(cls) -> Daemon:
        """The daemon DOCKER_HOST names, or the usual one.

        Raises:
            SandboxUnavailable: none answers, or it cannot serve a box.
        """
        try:
            _knock()
            client = docker.from_env(timeout=_SHORT_S)
        except (docker.errors.DockerException, requests.RequestException, OSError) as cause:
            raise SandboxUnavailable(
                "no Docker daemon answers: start it, set DOCKER_HOST, or use --sandbox bubblewrap or landlock"
            ) from cause
        daemon = cls(client)
        try:
            daemon._check()
        except BaseException:
            daemon.close()
            raise
        return daemon

    def _check(self) -> None:
        if not self._api.base_url.startswith(("http+docker://localhost", "http://localhost", "http://127.0.0.1")):
            raise SandboxUnavailable(
                f"the Docker daemon at {self._api.base_url} is not on this machine, and cannot see the work tree"
            )
        with _translated("asking the daemon about itself"):
            options = self._client.info().get("SecurityOptions") or []
        if any(name in option for option in options for name in ("name=rootless", "name=userns")):
            raise SandboxUnavailable(
                "this Docker daemon renames users, and files would come out as another's: "
                "use a daemon run by root, or --sandbox bubblewrap"
            )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def has_image(self, tag: str) -> bool:
        """Whether the daemon has an image of that name."""
        try:
            with _translated(f"looking for the image {tag}"):
                self._api.inspect_image(tag)
        except SandboxLost as fault:
            if isinstance(fault.__cause__, docker.errors.ImageNotFound):
                return False
            raise
        return True

    def image_path(self, tag: str) -> str | None:
        """PATH as the image sets it."""
        with _translated(f"reading the image {tag}"):
            variables = self._api.inspect_image(tag)["Config"].get("Env") or []
        return next((text.partition("=")[2] for text in variables if text.startswith("PATH=")), None)

    def export_folder(self, tag: str, folder: str, sink: BinaryIO) -> None:
        """Write a folder of an image as a tar archive, without running anything of it.

        Raises:
            SandboxLost: there is no such image, or nothing of that name in it.
        """
        with _translated(f"reading {folder} of the image {tag}"):
            made = self._api.create_container(image=tag, command=["true"], entrypoint=[])["Id"]
            try:
                pieces, _ = self._api.get_archive(made, folder)
                for piece in pieces:
                    sink.write(piece)
            finally:
                self._api.remove_container(made, force=True, v=True)

    def build_image(
        self, folder: Path, dockerfile: str, tag: str, *, network: bool, arguments: Mapping[str, str]
    ) -> None:
        """Build an image from a folder.

        Args:
            dockerfile: its path in the folder.
            network: whether the build's steps may use the network.
            arguments: for the build; those that name proxies need not be declared.

        Raises:
            ImageError: the build failed; one line on the cause, out of its output.
        """
        mode = self._build_network() if network else "none"
        output = BuildOutput()
        try:
            for event in self._api.build(
                path=str(folder),
                dockerfile=dockerfile,
                tag=tag,
                rm=True,
                forcerm=True,
                decode=True,
                network_mode=mode,
                pull=False,
                buildargs=dict(arguments),
                timeout=_BUILD_S,
            ):
                if "error" in event:
                    raise ImageError(output.cause(event["error"]))
                output.add(event.get("stream") or "")
        except (docker.errors.DockerException, requests.RequestException, OSError) as cause:
            raise ImageError(" ".join(str(cause).split())) from cause

    def remove_stages(self, tag: str) -> None:
        """Remove what the build of an image has left of its first stages."""
        with _translated("removing a build's stages"):
            self._api.prune_images(filters={"dangling": True, "label": f"{STAGE_LABEL}={tag}"})

    def remove_image(self, tag: str) -> None:
        """Remove an image; one that is not there is fine."""
        with _translated(f"removing the image {tag}"), contextlib.suppress(docker.errors.ImageNotFound):
            self._api.remove_image(tag, force=True)

    def _build_network(self) -> str:
        """A daemon run without a bridge has no network but the machine's own."""
        with _translated("listing networks"):
            return "default" if self._api.networks(names=["bridge"]) else "host"

    def create(self, plan: ContainerPlan) -> str:
        """Make and start a container; its id. Removed again when it does not start."""
        with _translated("creating the container"):
            made: str = self._api.create_container(
                image=plan.image,
                command=list(plan.argv),
                entrypoint=[],
                user=plan.user,
                labels={OWNER_LABEL: plan.owner, **plan.labels},
                hostname="kodkod",
                host_config=self._host_config(plan),
            )["Id"]
            try:
                self._api.start(made)
            except BaseException:
                self.remove(made)
                raise
        return made

    def _host_config(self, plan: ContainerPlan) -> Any:
        """What the container may have of the machine, and nothing beyond."""
        return self._api.create_host_config(
            mounts=[_bound(mount) for mount in plan.mounts],
            tmpfs=dict(plan.tmpfs),
            network_mode=None if plan.network else "none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            mem_limit=plan.memory_bytes,
            memswap_limit=plan.memory_bytes,
            shm_size=plan.shared_memory_bytes,
            pids_limit=plan.pids,
            nano_cpus=int(plan.cpus * 1e9) or None,
            ulimits=[_capped("fsize", plan.file_bytes), _capped("core", 0)],
            ipc_mode="private",
        )

    def remove(self, container: str) -> None:
        """Kill and remove a container; one that is gone already is fine."""
        try:
            with _translated("removing the container"):
                self._api.remove_container(container, force=True, v=True)
        except SandboxLost as fault:
            if not isinstance(fault.__cause__, docker.errors.NotFound | docker.errors.APIError):
                raise  # "already in progress" and "no such container" both mean that it goes

    def restart(self, container: str) -> None:
        """Kill everything in a container and start it afresh."""
        with _translated("restarting the container"):
            self._api.restart(container, timeout=0)

    def owners(self) -> dict[str, str]:
        """Containers kodkods made, and what says whose they are."""
        with _translated("listing containers"):
            found = self._api.containers(all=True, filters={"label": OWNER_LABEL})
        return {each["Id"]: each["Labels"][OWNER_LABEL] for each in found}

    def count_processes(self, container: str) -> int:
        """How many processes a container has."""
        with _translated("listing the container's processes"):
            return len(self._api.top(container)["Processes"])

    def attach(
        self, container: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, stdin: bool
    ) -> tuple[str, Attachment]:
        """Start a command in a container; its id and its connection."""
        with _translated("starting the command"):
            made: str = self._api.exec_create(container, list(argv), stdin=stdin, environment=dict(env), workdir=cwd)[
                "Id"
            ]
            return made, Attachment(self._api.exec_start(made, socket=True))

    def run(self, container: str, argv: Sequence[str]) -> int:
        """Run a small command of the box's own to its end; its exit code."""
        with _translated("working in the container"):
            made = self._api.exec_create(container, list(argv))["Id"]
            self._api.exec_start(made)
            return int(self._api.exec_inspect(made)["ExitCode"] or 0)

    def state(self, command: str) -> ExecState:
        """How a command stands."""
        with _translated("asking after the command"):
            found = self._api.exec_inspect(command)
        return ExecState(bool(found["Running"]), int(found["ExitCode"] or 0))

    def ran_out_of_memory(self, container: str, since_s: float) -> bool:
        """Whether the kernel killed a process of the container for its memory limit since then (seconds of 1970)."""
        window = {"since": int(since_s), "until": int(time.time()) + 1}
        with _translated("reading the daemon's events"):
            events = self._api.events(**window, filters={"container": container, "event": "oom"}, decode=True)
            return next(iter(events), None) is not None
