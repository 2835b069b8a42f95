"""`tandem up`: serve until Ctrl-C."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated

import typer

from tandem.cli.context import AsJson, Quiet, emit, notes, open_house
from tandem.flows import permit
from tandem.kit.errors import Forbidden
from tandem.kit.log import setup_logging
from tandem.server import House, serve

Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1, or the setting.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: 8000, or the setting.")]


def up(host: Host = None, port: Port = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Serve the deployments behind the OpenAI and the Azure OpenAI API, until Ctrl-C."""
    house = open_house(host=host, port=port)
    setup_logging(house.settings.log_level, house.settings.log_format, secrets=house.settings.secrets)

    async def started(url: str) -> None:
        emit({"url": url}, as_json=as_json, quiet=quiet, bare=url, shown=_welcome(house, url))

    run_server(house, started)
    notes.print("Stopped.")


def run_server(house: House, started: Callable[[str], Coroutine[None, None, None]]) -> None:
    """Run the server on the fastest loop there is."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(serve(house, started=started))
    else:
        uvloop.run(serve(house, started=started))


def _unreleased(house: House) -> Iterator[Forbidden]:
    """Why the release gate keeps a deployment from clients; for each that it does."""
    for deployment in house.deployments.deployments():
        try:
            permit(house.releases, deployment.binding)
        except Forbidden as error:
            yield error


def _welcome(house: House, url: str) -> str:
    names = [deployment.name for deployment in house.deployments.deployments()]
    lines = [f"Tandem serves at {url}", f"  OpenAI        {url}/v1", f"  Azure OpenAI  {url}"]
    if names:
        lines.append(f"  Deployments   {', '.join(names)}")
    else:
        lines.append("Nothing is deployed yet: `tandem release request starter --sign`, then `tandem deploy starter`.")
    for error in _unreleased(house):
        lines.append(f"  Not served    {error.message} {error.remedy}")
    lines.append("A key is made with `tandem keys create --name me`. Ctrl-C stops.")
    return "\n".join(lines)
