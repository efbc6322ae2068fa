"""Work pools, deployments and automations on a Prefect server, exactly as their files say.

Prefect's own command leaves schedules that were taken out of its file, and makes no pool. Each deployment is written
here in one request, which replaces its schedules and drops no run that waits already.
"""

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from meddiff_core.errors import ConfigurationError, MeddiffError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_ANSWER_S = 5
_START = "prefect server start --host 127.0.0.1"


def server_address() -> str:
    """Address of the API that answers, as Prefect's settings have it.

    Raises:
        ConfigurationError: none is set, or nobody answers there.
    """
    import httpx

    try:
        from prefect.settings import PREFECT_API_URL

        address = PREFECT_API_URL.value()
    except ValueError as error:  # Prefect checks all its settings at once
        raise ConfigurationError("PREFECT_API_URL and Prefect's other settings must be valid, are not") from error
    if not address:
        advice = f"`{_START}`, then `export PREFECT_API_URL=http://127.0.0.1:4200/api`"
        raise ConfigurationError(f"PREFECT_API_URL must be the address of a Prefect server, is not set; {advice}")
    try:
        answer = httpx.get(f"{address}/health", timeout=_ANSWER_S)
        healthy, why = answer.is_success and answer.json() is True, f"answers {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        healthy, why = False, str(error)
    if not healthy:
        raise ConfigurationError(f"PREFECT_API_URL: a Prefect server must answer at {without_password(address)}: {why}")
    return str(address)


def without_password(address: str) -> str:
    """An address that may be shown."""
    scheme, found, rest = address.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


def deploy(file: Path, automations: Path, notify: str | None) -> Iterator[str]:
    """Make or change what two files describe; a line for each.

    Raises:
        ConfigurationError: a file is wrong, or there is no such notification block.
        MeddiffError: the server refused.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    content, watched = _read(file), _read(automations)
    with get_client(sync_client=True) as client:
        try:
            for name, pool in content.get("definitions", {}).get("pools", {}).items():
                _make_pool(client, name, pool)
                yield f"pool        {name}"
            for deployment in content["deployments"]:
                yield f"deployment  {_make_deployment(client, deployment)}"
            for automation in [*watched["automations"], *_notifications(client, watched["notifications"], notify)]:
                _make_automation(client, automation)
                yield f"automation  {automation['name']}"
        except PrefectHTTPStatusError as error:
            raise MeddiffError(f"the Prefect server must take it, answered: {error.response.text[:500]}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(file.read_bytes()))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{file}: must be a YAML file of deployments: {error}") from error


def _make_pool(client: "SyncPrefectClient", name: str, pool: Mapping[str, Any]) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template, **pool))
    else:
        client.update_work_pool(name, WorkPoolUpdate(**pool))


def _make_deployment(client: "SyncPrefectClient", described: Mapping[str, Any]) -> str:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.utilities.callables import parameter_schema

    module, _, name = described["entrypoint"].removesuffix(".py").replace(".py:", ":").replace("/", ".").partition(":")
    flow, full = getattr(import_module(module), name), f"{name}/{described['name']}"
    schema = parameter_schema(flow)
    schedules = [_schedule(full, described, one, schema.required) for one in described.get("schedules", [])]
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=described["name"],
        description=described["description"],
        tags=described.get("tags", []),
        work_pool_name=described["work_pool"]["name"],
        job_variables=described["work_pool"].get("job_variables", {}),
        entrypoint=f"{module}.{name}",
        parameters=described.get("parameters", {}),
        parameter_openapi_schema=schema.model_dump_for_openapi(),
        enforce_parameter_schema=True,
        schedules=[DeploymentScheduleCreate.model_validate(one) for one in schedules],
    )
    return full


def _schedule(
    deployment: str, described: Mapping[str, Any], schedule: Mapping[str, Any], required: list[str]
) -> dict[str, Any]:
    """What Prefect takes. A schedule that is active must say what it runs, else its every run would fail by night."""
    timing = {key: schedule[key] for key in ("cron", "interval", "rrule", "timezone", "anchor_date") if key in schedule}
    given = {**described.get("parameters", {}), **schedule.get("parameters", {})}
    missing = [name for name in required if name not in given]
    if schedule.get("active", True) and missing:
        raise ConfigurationError(f"{deployment}: an active schedule must give {', '.join(missing)} in its parameters")
    rest = {key: schedule[key] for key in ("slug", "active", "parameters") if key in schedule}
    return {"schedule": timing, **rest}


def _notifications(
    client: "SyncPrefectClient", described: list[dict[str, Any]], block: str | None
) -> Iterator[dict[str, Any]]:
    """Automations that write to a notification block."""
    if block is None:
        return
    from prefect.exceptions import ObjectNotFound

    kind, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, kind)
    except ObjectNotFound as error:
        raise ConfigurationError(f"--notify: must be TYPE/NAME of a block that is saved, is {block!r}") from error
    for one in described:
        action = {"type": "send-notification", "block_document_id": document.id}
        texts = {key: one[key] for key in ("subject", "body")}
        yield {key: one[key] for key in one if key not in texts} | {"actions": [action | texts]}


def _make_automation(client: "SyncPrefectClient", described: Mapping[str, Any]) -> None:
    """An automation that is as it shall be is left alone: to write it again would forget whom it watches."""
    from prefect.events import AutomationCore

    wanted = AutomationCore.model_validate({**described, "trigger": {"type": "event", **described["trigger"]}})
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
    elif AutomationCore.model_validate(found[0].model_dump()) != wanted:
        client.update_automation(found[0].id, wanted)


def is_loopback_behind_a_proxy(address: str) -> bool:
    """Whether the commands to go on with would ask a proxy for this machine."""
    proxied = any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"))
    return proxied and any(f"//{host}" in address for host in ("127.0.0.1", "localhost", "[::1]"))
