"""A pull beside curl, the share of the bytes that a filter transfers, and random volumes over HTTP.

    python tests/benchmarks/pulling.py [--large 256] [--small 1500] [--volumes 200] [--rounds 3]

Both tools ask the same server of Python, in a process of its own and over loopback, and write to the same disk, in
turns. curl is followed by `sha256sum -c`, as a pull hashes every file. Memory is the most that a pull held, beside what
Python and its imports hold before it begins.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.data import DataLoader

from meddiff_core.distribution.plan import Choice
from meddiff_core.distribution.pull import part_of, pull_release, whole_release
from meddiff_core.objects.addresses import open_source
from meddiff_core.release import open_release
from meddiff_core.release.manifest import FORMAT, MANIFEST, describe_file, read_manifest

SERVER = """
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
class Quiet(SimpleHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, 1 << 16
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=sys.argv[1]))
print(server.server_address[1], flush=True)
server.serve_forever()
"""
PULL = """
import resource, sys
from pathlib import Path
from meddiff_core.distribution.pull import pull_release
from meddiff_core.objects.addresses import open_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in pull_release(open_source(sys.argv[1]), Path(sys.argv[2])): pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a folder, served by another process."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()


def write_objects(folder: Path, count: int, size: int) -> None:
    """A manifest that lists so many objects of random bytes; as a release it is empty, for a pull it is one."""
    folder.mkdir()
    for number in range(count):
        (folder / f"object-{number:05d}").write_bytes(random.Random(number).randbytes(size))
    files = {path.name: asdict(describe_file(path)) for path in sorted(folder.iterdir())}
    said = {"format": FORMAT, "name": "objects", "version": "1.0.0", "title": "Objects", "licence": "none"}
    rest: dict[str, Any] = {"preset": "", "samples": 1, "counts": {}, "parents": {}, "study": {}, "versions": {}}
    (folder / MANIFEST).write_text(json.dumps(said | rest | {"files": files}))


def by_pull(url: str, folder: Path) -> None:
    """All of it by meddiff."""
    for _ in pull_release(open_source(url), folder, planner=whole_release):
        pass


def by_curl(url: str, folder: Path, names: dict[str, str], parallel: bool) -> None:
    """All of it by curl, then its check."""
    folder.mkdir()
    (folder / "sums").write_text("".join(f"{digest}  {name}\n" for name, digest in names.items()))
    config = "".join(f'url = "{url}/{name}"\noutput = "{folder / name}"\n' for name in names)
    (folder / "config").write_text(config)
    options = ["--parallel", "--parallel-max", "8", "--parallel-immediate"] if parallel else []
    subprocess.run(
        ["curl", "-s", "--no-progress-meter", "--fail", "--noproxy", "*", *options, "-K", str(folder / "config")],
        check=True,
    )
    subprocess.run(["sha256sum", "--quiet", "-c", "sums"], cwd=folder, check=True)


def race(name: str, folder: Path, size: int, rounds: int, parallel: bool) -> None:
    """Both tools in turns, and their ratio in each round."""
    names = {path: entry.sha256 for path, entry in read_manifest(folder).files.items()}
    seconds: dict[str, list[float]] = {"curl": [], "meddiff": []}
    with served(folder) as url, TemporaryDirectory(dir=folder.parent) as there:
        contenders: dict[str, Callable[[Path], None]] = {
            "curl": lambda target: by_curl(url, target, names, parallel),
            "meddiff": lambda target: by_pull(url, target),
        }
        for number in range(rounds):
            for tool in list(contenders)[:: 1 if number % 2 else -1]:
                target = Path(there) / f"{tool}-{number}"
                os.sync()
                since = time.perf_counter()
                contenders[tool](target)
                seconds[tool].append(time.perf_counter() - since)
                shutil.rmtree(target)
        memory = subprocess.run(
            [sys.executable, "-c", PULL, url, f"{there}/memory"], capture_output=True, text=True, check=True
        )
    total = size * len(names) / 1e6
    ratios = [mine / theirs for mine, theirs in zip(seconds["meddiff"], seconds["curl"], strict=True)]
    for tool, taken in seconds.items():
        print(f"{name:6} {tool:8} {median(taken):7.2f} s  {total / median(taken):7.0f} MB/s")
    print(f"{name:6} meddiff takes {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of curl's time")
    print(f"{name:6} memory for it {float(memory.stdout):.0f} MB")


def filter_share(release: Path) -> None:
    """Bytes that a filter which keeps one volume of a hundred transfers."""
    whole = read_manifest(release)
    chunks = {name: entry.bytes for name, entry in whole.files.items() if "/c." in name}
    with served(release) as url, TemporaryDirectory() as there:
        target = Path(there) / "part"
        work = pull_release(open_source(url), target, planner=part_of(Choice(limit=max(1, whole.samples // 100))))
        for _ in work:
            pass
        part = read_manifest(target)
    kept = sum(entry.bytes for name, entry in part.files.items() if "/c." in name)
    manifest = (release / MANIFEST).stat().st_size
    print(f"filter keeps {part.samples} of {whole.samples}: {kept / sum(chunks.values()):.2%} of the chunks' bytes")
    print(f"filter manifest {manifest / 1e3:.0f} kB, {manifest / whole.samples:.0f} bytes a volume")


def loader_speed(release: Path) -> None:
    """Random volumes a second, from the URL beside the folder."""
    with served(release) as url:
        for name, address in (("folder", str(release)), ("URL", url)):
            data = open_release(address, cache=None).dataset()
            loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=2, persistent_workers=True)
            list(loader)  # workers start
            since = time.perf_counter()
            list(loader)
            print(f"loader {name:8} {len(data) / (time.perf_counter() - since):7.0f} volumes/s, 2 workers")


def build(folder: Path, volumes: int) -> Path:
    """A release of small heads."""
    from meddiff_core.release.build import build_release
    from tests.release.conftest import content_of

    work = build_release(content_of(volumes, size=(32, 40, 32)), folder)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return Path(end.value)


def main() -> None:
    """Print a line a figure."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--large", type=int, default=256, help="MB of one large object")
    parser.add_argument("--small", type=int, default=1500, help="objects of 40 kB")
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"cores {os.cpu_count()}, load {os.getloadavg()[0]:.1f}")
    with TemporaryDirectory() as there:
        for name, count, size in (("large", 1, options.large * 10**6), ("small", options.small, 40_000)):
            if count and size:
                write_objects(Path(there) / name, count, size)
                race(name, Path(there) / name, size, options.rounds, name == "small")
                shutil.rmtree(Path(there) / name)
        if options.volumes:
            release = build(Path(there) / "release", options.volumes)
            filter_share(release)
            loader_speed(release)
    print(f"most memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB")


if __name__ == "__main__":
    main()
