"""What is imported when: help at once, and the core without any engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "monai",
    "prefect",
    "mlflow",
    "dask",
    "distributed",
    "zarr",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
}
ENGINES = ["prefect", "mlflow", "dask", "distributed"]

HELP = """
import json, sys
from flows.cli import main
sys.argv = ["meddiff", "--help"]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)))
"""

CORE = """
import importlib, sys
for engine in sys.argv[1].split():
    sys.modules[engine] = None  # so that importing it fails
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_of(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def test_help_imports_nothing_heavy() -> None:
    modules = json.loads(run(HELP).splitlines()[-1])
    assert "flows.cli" in modules
    assert HEAVY.isdisjoint(modules)


def test_the_core_needs_no_engine() -> None:
    modules = modules_of("meddiff_core")
    assert "meddiff_core.study" in modules
    run(CORE, " ".join(ENGINES), *modules)


@pytest.mark.parametrize("module", ["tasks.environment", "tasks.local_api", "tasks.tracking.sender"])
def test_what_is_called_before_the_engines_imports_none(module: str) -> None:
    loaded = json.loads(run(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"))
    assert HEAVY.isdisjoint(loaded)


def test_a_flow_that_finds_nothing_to_do_imports_nothing_that_computes() -> None:
    code = "import json, sys, flows.synthesize, flows.generate, tasks.summary; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(code))
    assert "meddiff_core.stages.readiness" in loaded
    assert (HEAVY - {"prefect"}).isdisjoint(loaded)


def test_a_process_that_trains_imports_no_engine() -> None:
    loaded = json.loads(run("import json, sys, tasks.worker; print(json.dumps(sorted(sys.modules)))"))
    assert "torch" in loaded
    assert set(ENGINES).isdisjoint(loaded)
