"""A Postgres cluster of its own for a test, in a temporary folder: not the machine's, and gone with the test."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tracking_servers import free_port

USER, PASSWORD = "meddiff", "cAnAry-P0stgres"
MOST_CONNECTIONS = 100
"""Postgres's default."""


@dataclass(frozen=True)
class Postgres:
    """A running cluster."""

    port: int

    def url(self, driver: str, database: str) -> str:
        return f"{driver}://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def ask(self, query: str, database: str = "postgres") -> list[Any]:
        """Rows of a query; nothing for a command."""
        import psycopg2

        connection = psycopg2.connect(self.url("postgresql", database))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def connections(self, database: str) -> int:
        """How many are open."""
        return int(self.ask(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'")[0][0])


def programs() -> Path:
    """The folder of Postgres's programs."""
    pytest.importorskip("psycopg2", reason="needs psycopg2-binary: pip install 'meddiff[postgres]'")
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    if found is None:
        pytest.skip("needs Postgres: no initdb on the PATH or in /usr/lib/postgresql")
    return Path(found).parent


def account() -> str | None:
    """Whom Postgres runs as, since it refuses to be root; None for the present user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("needs a user for Postgres, which refuses to run as root")


@contextlib.contextmanager
def postgres_cluster() -> Iterator[Postgres]:
    """A cluster that asks for a password, with the databases `mlflow` and `prefect`."""
    binaries, user, port = programs(), account(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="meddiff-postgres-"))
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user is not None:
        for path in (folder, secret):
            shutil.chown(path, user)
    options: dict[str, Any] = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    data = ["-D", folder / "data"]
    make = [binaries / "initdb", *data, "-U", USER, f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run(make, check=True, **options)
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
    serve = [binaries / "postgres", *data, "-p", str(port), *(f"--{key}={value}" for key, value in settings.items())]
    process = subprocess.Popen(serve, **options)
    cluster = Postgres(port)
    try:
        _wait(cluster, process)
        for database in ("mlflow", "prefect"):
            cluster.ask(f"CREATE DATABASE {database}")
        yield cluster
    finally:
        process.terminate()
        process.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(cluster: Postgres, process: "subprocess.Popen[bytes]") -> None:
    import psycopg2

    deadline = time.monotonic() + 120
    while True:
        try:
            cluster.ask("SELECT 1")
            return
        except psycopg2.OperationalError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
