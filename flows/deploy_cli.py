"""The command that makes pools, deployments and automations on a Prefect server."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
INFRA = Path(__file__).parents[1] / "infra"


@app.command()
def deploy(
    file: Annotated[Path, typer.Option(help="Deployments, schedules and pools; a copy of infra/prefect.yaml.")] = INFRA
    / "prefect.yaml",
    automations: Annotated[Path, typer.Option(help="What Prefect shall watch.")] = INFRA / "automations.yaml",
    notify: Annotated[
        str | None, typer.Option(metavar="TYPE/NAME", help="Notification block for failed gates, releases, stuck runs.")
    ] = None,
) -> None:
    """Make work pools, deployments and automations on the Prefect server.

    The server is that of PREFECT_API_URL. Run it again after a change of the file:
    a deployment then has the schedules of the file and no others, and a run that
    waits already is not lost. Schedules are inactive until the file gives them a
    study.
    """
    from tasks.environment import ask_no_proxy_for_loopback

    ask_no_proxy_for_loopback()
    from tasks.deployments import deploy, is_loopback_behind_a_proxy, server_address, without_password

    address = server_address()
    proxied = is_loopback_behind_a_proxy(address)
    for line in deploy(file, automations, notify):
        print(line, flush=True)
    print(f"\nserver      {without_password(address)}")
    if proxied:
        print("proxy       export no_proxy=127.0.0.1,localhost,::1")
    print("worker      PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 prefect worker start --pool cpu --limit 1")
    print("            PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 prefect worker start --pool gpu --limit 1")
    print("run         prefect deployment run synthesize/on-demand --param study=/path/study.yaml --watch")
