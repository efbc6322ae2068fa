"""The topology of compose.yaml as processes of this machine, on loopback: `make cluster`.

Where no container engine runs, the documented services can still be tried, and tests run against them. A guard starts
them in order, waits until each answers, and ends them, and nothing else, when this command ends, however that ends:
servers that outlive a killed command would keep their ports, their memory and their locks.
"""

import argparse
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from meddiff_core.artefacts import alone

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
BIN = Path(sys.executable).parent
ANSWER_S, GOODBYE_S = 180.0, 15.0
PORTS = {"postgres": 5432, "s3": 9000, "prefect": 4200, "mlflow": 5000, "scheduler": 8786}
POOLS = ("cpu", "gpu")
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36
"""Of prctl(2)."""


@dataclass(frozen=True)
class Service:
    """One server: how it is started, and how it is asked whether it is there."""

    name: str
    command: Sequence[str | Path]
    environment: dict[str, str] = field(default_factory=dict)
    port: int | None = None
    """None: it only has to stay alive."""
    health: str | None = None
    """Path of an HTTP request that answers 200; None: the port is open."""
    user: str | None = None
    goodbye: signal.Signals = signal.SIGTERM


def main() -> None:
    """Hold a guard until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder of databases and logs.")
    parser.add_argument("--workers", type=int, default=2, help="Dask workers.")
    parser.add_argument("--guard", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.guard:
        guard(arguments.folder.absolute(), arguments.workers)
        return
    prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)  # of `make`, or of a test
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    command = [sys.executable, __file__, str(arguments.folder), f"--workers={arguments.workers}", "--guard"]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=variables) as process:
        try:
            sys.exit(process.wait())
        except KeyboardInterrupt:
            sys.exit(0)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def guard(folder: Path, workers: int) -> None:
    """Start everything, and end it when whoever holds the other end of standard input is gone."""
    prctl(_SET_CHILD_SUBREAPER, 1)  # what a service leaves behind becomes a child of this process
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), stop.set()), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    folder.mkdir(parents=True, exist_ok=True)
    started: list[tuple[Service, subprocess.Popen[bytes]]] = []
    try:
        with alone(folder / "cluster.lock", wait=False):
            try:
                ports = {name: free_port(port) for name, port in PORTS.items()}
                for service in services(folder, ports, workers):
                    started.append((service, start(service, folder)))
                    if not answers(*started[-1], stop):
                        if stop.is_set():
                            return
                        sys.exit(f"cluster: {service.name} must answer, see {folder / 'logs' / service.name}.txt")
                    print(f"{service.name:10s}{where(service)}", flush=True)
                print(usage(ports), flush=True)
                while not stop.wait(1.0):
                    for service, process in started:
                        if process.poll() is not None:
                            sys.exit(f"cluster: {service.name} ended, see {folder / 'logs' / service.name}.txt")
            finally:
                end(started)
    except BlockingIOError:
        sys.exit(f"cluster: {folder} is in use by another one")


def services(folder: Path, ports: dict[str, int], workers: int) -> Iterator[Service]:
    """In the order in which they need one another. What is asked for by one that runs already is done on the way."""
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"http://{HOST}:{ports['prefect']}/api"}
    prefect_database = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    mlflow_database = f"sqlite:///{folder / 'mlflow.db'}"
    if (postgres := find_postgres()) is not None:
        yield start_of_postgres(folder / "postgres", postgres, ports["postgres"])
        address = f"postgres@{HOST}:{ports['postgres']}"
        prefect_database = f"postgresql+asyncpg://{address}/postgres"
        if find_spec("psycopg2"):
            create_database(postgres, ports["postgres"], "mlflow")
            mlflow_database = f"postgresql://{address}/mlflow"
    if (moto := shutil.which("moto_server")) is not None:
        yield Service("s3", [moto, "--host", HOST, "--port", str(ports["s3"])], port=ports["s3"])
    server = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": prefect_database,
        # In memory, their default, a restart of the server leaves the slot of a deployment taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    command = [BIN / "prefect", "server", "start", "--host", HOST, "--port", str(ports["prefect"])]
    yield Service("prefect", command, own | server, ports["prefect"], "/api/health")
    command = [BIN / "mlflow", "server", f"--host={HOST}", f"--port={ports['mlflow']}", "--workers=1"]
    command += [f"--backend-store-uri={mlflow_database}", f"--artifacts-destination={folder / 'mlflow'}"]
    alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # jobs of language models
    yield Service("mlflow", command, alone, ports["mlflow"], "/health")
    command = [BIN / "dask", "scheduler", "--host", HOST, "--port", str(ports["scheduler"]), "--no-dashboard"]
    yield Service("scheduler", command, port=ports["scheduler"])
    for number in range(workers):
        command = [BIN / "dask", "worker", f"tcp://{HOST}:{ports['scheduler']}", "--nthreads", "1", "--no-dashboard"]
        command += ["--local-directory", str(folder / "dask"), "--memory-limit", "0"]
        yield Service(f"dask-{number}", command, {"OMP_NUM_THREADS": "1"})
    command = [BIN / "meddiff", "deploy"]
    done = subprocess.run(command, env=variables(own), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"cluster: meddiff deploy: {done.stdout}{done.stderr}")
    own |= {"MLFLOW_TRACKING_URI": f"http://{HOST}:{ports['mlflow']}", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    for pool in POOLS:
        command = [BIN / "prefect", "worker", "start", "--pool", pool, "--limit", "1"]
        yield Service(f"worker-{pool}", command, own)


def find_postgres() -> Path | None:
    """Folder of the programs of Postgres, if it is installed and would run."""
    found = shutil.which("initdb")
    usable = found and (os.geteuid() != 0 or Path("/etc/passwd").read_text().find("\npostgres:") >= 0)
    return Path(found).resolve().parent if found and usable else None


def start_of_postgres(folder: Path, programs: Path, port: int) -> Service:
    """Nobody but this machine reaches it, so that it needs no password. It refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else None
    if not (folder / "PG_VERSION").exists():
        folder.mkdir(exist_ok=True)
        if user is not None:
            shutil.chown(folder, user)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8"]
        subprocess.run(
            [programs / "initdb", "--pgdata", folder, *options],
            check=True,
            user=user,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )
    command = [programs / "postgres", "-D", folder, "-h", HOST, "-p", str(port), "-c", "unix_socket_directories="]
    return Service("postgres", command, port=port, user=user, goodbye=signal.SIGINT)  # SIGTERM waits for its clients


def create_database(programs: Path, port: int, name: str) -> None:
    """Unless it is there."""
    command = [programs / "createdb", "-h", HOST, "-p", str(port), "-U", "postgres", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "already exists" not in done.stderr:
        sys.exit(f"cluster: no database {name}: {done.stderr.strip()}")


def start(service: Service, folder: Path) -> "subprocess.Popen[bytes]":
    """Its output goes to a file; it is asked to end if even the guard is killed."""
    log = folder / "logs" / f"{service.name}.txt"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=variables(service.environment),
            cwd="/" if service.user else ROOT,
            user=service.user,
            preexec_fn=lambda: prctl(_SET_PARENT_DEATH_SIGNAL, service.goodbye),
        )


def variables(own: dict[str, str]) -> dict[str, str]:
    """Without what the user has set up for other servers, and without a proxy between those here."""
    engines = ("PREFECT_", "MLFLOW_", "DASK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(engines)}
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | quiet | {"no_proxy": HOST, "NO_PROXY": HOST, "PYTHONPATH": str(ROOT)} | own


def answers(service: Service, process: "subprocess.Popen[bytes]", stop: threading.Event) -> bool:
    """Whether it comes to life in time."""
    if service.port is None:
        return not stop.wait(1.0) and process.poll() is None
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline and process.poll() is None and not stop.wait(0.2):
        if is_healthy(service.port, service.health):
            return True
    return False


def is_healthy(port: int, health: str | None) -> bool:
    """Whether a server answers."""
    try:
        if health is None:
            socket.create_connection((HOST, port), timeout=5).close()
            return True
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{HOST}:{port}{health}", timeout=5) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def end(started: list[tuple[Service, "subprocess.Popen[bytes]"]]) -> None:
    """In reverse order; what is left below this process after that is killed, by its number."""
    for service, process in reversed(started):
        if process.poll() is None:
            process.send_signal(service.goodbye)
            try:
                process.wait(GOODBYE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    while left := children(os.getpid()):
        for number in left:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def children(process: int) -> list[int]:
    """Numbers of the processes that a process has started or taken over."""
    lists = [(task / "children").read_text() for task in Path(f"/proc/{process}/task").iterdir()]
    return [int(number) for line in lists for number in line.split()]


def free_port(wanted: int) -> int:
    """The usual one, or any if that is taken."""
    for port in (wanted, 0):
        try:
            with socket.create_server((HOST, port)) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            continue
    raise OSError("no port is free")


def where(service: Service) -> str:
    """Its address."""
    return f"{HOST}:{service.port}" if service.port else "started"


def usage(ports: dict[str, int]) -> str:
    """What to type next."""
    return f"""
In another shell:
    export PREFECT_API_URL=http://{HOST}:{ports["prefect"]}/api MLFLOW_TRACKING_URI=http://{HOST}:{ports["mlflow"]}
    {BIN / "prefect"} deployment run 'synthesize/on-demand' --param study=/path/to/study.yaml --watch
In a study that shall use the Dask workers:
    runtime: {{dask: "tcp://{HOST}:{ports["scheduler"]}"}}
In a browser: http://{HOST}:{ports["prefect"]} and http://{HOST}:{ports["mlflow"]}
Ctrl-C ends all of it and keeps the databases."""


def prctl(option: int, value: int) -> None:
    """Ask the kernel for something about this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    main()
