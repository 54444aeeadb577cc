"""`kodkod serve`: the engine behind HTTP, for clients of the OpenAI API."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodkod_app.commands.fix import MODEL_HELP

if TYPE_CHECKING:
    from kodkod_app.serving.application import Access
    from kodkod_app.serving.running import Listening
    from kodkod_app.serving.service import Service

DEFAULT_HOST = "127.0.0.1"


@click.command(name="serve")
@click.option("-m", "--model", metavar="DIR", help=MODEL_HELP)
@click.option("--name", metavar="NAME", help="What clients call the model. [default: the folder's name]")
@click.option(
    "--host", default=DEFAULT_HOST, show_default=True,
    help="Address to listen on. Any but this machine's own lets others use the model, and warns.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0 takes any free one.")
@click.option(
    "--api-key-file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its first line is the key that clients must bring. [default: none is needed]",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No line for each request.")
def command(**flags: Any) -> int:
    """Serve a model to clients of the OpenAI API: chat, completions, models, /health, /openapi.json.

    The base address is printed on standard output once it listens. What was generated is known again when a client
    sends it back, so that a conversation costs its new tokens alone.

    Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 the port is taken or the engine failed, 2 usage, 4 no model.
    """
    from kodkod_app.bootstrap import absolute_name, open_session_model, require_model
    from kodkod_app.serving.running import listen
    from kodkod_app.settings import load_settings

    access = _access(flags)
    said = {"model": flags["model"] and absolute_name(flags["model"])}
    settings = load_settings(Path.cwd(), trusted=False, environment=os.environ, flags=said)
    name = flags["name"] or _short(require_model(settings.model))
    listening = listen(flags["host"], flags["port"])
    _warn(flags["host"], keyed=access.api_key is not None)
    model = open_session_model(settings.model, settings.engine)
    try:
        from kodkod_app.serving.service import Service

        if model.profile.guided:
            _note(f"{name} was made for kodkod's own loop and answers little that makes sense here; give another by -m")
        service = Service(model, name, (lambda _: None) if flags["quiet"] else _note)
        asyncio.run(_serve(service, access, listening))
    finally:
        model.engine.close()
    return 0


def _access(flags: dict[str, Any]) -> Access:
    from kodkod_app.serving.application import Access
    from kodkod_app.serving.running import LOOPBACK_HOSTS, is_loopback

    hosts = LOOPBACK_HOSTS | {flags["host"].lower()} if is_loopback(flags["host"]) else None
    path = flags["api_key_file"]
    if path is None:
        return Access(hosts=hosts)
    key = (path.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[0].strip()
    if not key:
        raise click.UsageError(f"{path} holds no key; write one into its first line")
    return Access(key, hosts)


def _warn(host: str, *, keyed: bool) -> None:
    from kodkod_app.serving.running import is_loopback

    if not is_loopback(host):
        keys = "a key" if keyed else "NO key: whoever can reach it may use the model; give --api-key-file"
        _note(f"warning: {host} can be reached from other machines, unencrypted, with {keys}")


async def _serve(service: Service, access: Access, listening: Listening) -> None:
    from kodkod_app.interrupts import Interrupts
    from kodkod_app.serving.application import application
    from kodkod_app.serving.running import server_for

    server = server_for(application(service, access))
    with Interrupts() as interrupts:
        interrupts.on_first = lambda: setattr(server, "should_exit", True)
        click.echo(listening.url)
        _note(f"serving {service.name}; Ctrl-C ends it")
        await server.serve(sockets=[listening.socket])


def _short(model: str) -> str:
    from kodkod_app.bootstrap import RECORDING

    return Path(model.removeprefix(RECORDING)).stem if model.startswith(RECORDING) else Path(model).resolve().name


def _note(text: str) -> None:
    from kodkod_app.render import for_terminal

    click.echo(f"kodkod: {for_terminal(text)}", err=True)
