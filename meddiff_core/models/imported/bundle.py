"""The configs of a MONAI bundle, read as data.

A bundle's configs are a program: strings that begin with `$` are Python, which MONAI runs. Here nothing runs. What
is needed must be literal, or a reference that leads to a literal; an expression in its place is refused by name.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from meddiff_core.errors import ConfigurationError
from meddiff_core.models.preconditioning import Schedule
from meddiff_core.study import MOST_YAML, describe_faults, parse_yaml

Arguments = Mapping[str, Any]
FLOW = "RFlowScheduler"
DDPM = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
_OLDER_ARGUMENTS = {"num_channels": "channels", "use_checkpointing": "use_checkpoint", "beta_schedule": "schedule"}
_OLDER_SCHEDULES = {"linear": "linear_beta", "scaled_linear": "scaled_linear_beta"}
_READERS: dict[str, Callable[[str], Any]] = {".json": json.loads, ".yaml": parse_yaml, ".yml": parse_yaml}


def modern_arguments(arguments: Arguments) -> dict[str, Any]:
    """Arguments by the names of MONAI, where GenerativeModels had others."""
    return {_OLDER_ARGUMENTS.get(name, name): value for name, value in arguments.items()}


@dataclass(frozen=True)
class Component:
    """Something that a config says how to build."""

    file: str
    name: str
    """Name of its class, without the module."""
    arguments: dict[str, Any]
    """Arguments as written, by their names in MONAI."""


@dataclass(frozen=True)
class Bundle:
    """The configs of a bundle; none, if models are described without one."""

    name: str = ""
    configs: dict[str, Any] = field(default_factory=dict)
    """Content by file name, that for inference first."""

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Read `folder/configs`; ConfigurationError if there is none, or one is not readable."""
        files = [path for path in sorted((folder / "configs").glob("*")) if path.suffix in _READERS]
        if not files:
            raise ConfigurationError(f"bundle: must be a folder with configs/*.json, {folder} holds none")
        files.sort(key=lambda path: not path.stem.startswith("infer"))
        return cls(folder.name, {path.name: _read(path) for path in files})

    def arguments(self, network: str, given: Arguments) -> dict[str, Any]:
        """Arguments of a network as literals; those that are `given` stand in for the bundle's.

        Raises:
            ConfigurationError: the bundle builds no such network, or needs an expression for it.
        """
        own, component = modern_arguments(given), self._component(network)
        if component is None and self.configs and not own:
            built = ", ".join(sorted({found.name for found in self._components()})) or "nothing"
            raise ConfigurationError(f"bundle {self.name}: must build {network}, builds {built}")
        written = component.arguments if component else {}
        return self._literals(component, set(written) - set(own)) | own

    def kind(self) -> str | None:
        """What the denoiser predicts, by the scheduler and its settings."""
        component = self._component(FLOW, *DDPM)
        if component is None:
            return None
        return "rectified_flow" if component.name == FLOW else str(self._setting("prediction_type", "epsilon"))

    def schedule(self) -> Schedule | None:
        """The noise of the DDPM that the denoiser was trained with."""
        component = self._component(*DDPM)
        if component is None:
            return None
        name = str(self._setting("schedule", "linear_beta"))
        betas = {key: self._setting(key, None) for key in ("beta_start", "beta_end")}
        found = {"name": _OLDER_SCHEDULES.get(name, name), "num_train_timesteps": self.num_train_timesteps(), **betas}
        try:
            return Schedule.model_validate(found)
        except ValidationError as error:
            where = f"bundle {self.name}, {component.file}: {component.name}"
            raise ConfigurationError(f"{where}: {describe_faults(error, Schedule)}") from error

    def num_train_timesteps(self) -> int:
        """Steps of the schedule, or the time of pure noise."""
        return int(self._setting("num_train_timesteps", 1000))

    def _setting(self, name: str, default: Any) -> Any:
        component = self._component(FLOW, *DDPM)
        return self._literals(component, {name}).get(name, default)

    def _component(self, *names: str) -> Component | None:
        """The one of the first file that builds any; ConfigurationError if that builds two that differ."""
        found = [component for component in self._components() if component.name in names]
        found = [component for component in found if component.file == found[0].file]
        if any(component.arguments != found[0].arguments for component in found):
            where = f"bundle {self.name}, {found[0].file}"
            raise ConfigurationError(f"{where}: must build one {found[0].name}, builds {len(found)} that differ")
        return found[0] if found else None

    def _components(self) -> Iterator[Component]:
        for file, content in self.configs.items():
            for built in _built(content):
                arguments = {name: value for name, value in built.items() if not name.startswith("_")}
                name = str(built["_target_"]).rsplit(".", 1)[-1]
                yield Component(file, name, modern_arguments(arguments))

    def _literals(self, component: Component | None, names: set[str]) -> dict[str, Any]:
        if component is None:
            return {}
        wanted = {name: value for name, value in component.arguments.items() if name in names}
        return {name: self._literal(value, component, name) for name, value in wanted.items()}

    def _literal(self, value: Any, component: Component, name: str, seen: tuple[str, ...] = ()) -> Any:
        if isinstance(value, list):
            return [self._literal(item, component, name, seen) for item in value]
        if not isinstance(value, str) or not value.startswith(("$", "@", "%")):
            return value
        if value.startswith("@") and value not in seen:
            for content in (self.configs[component.file], *self.configs.values()):
                if (found := _look_up(content, value[1:])) is not None:
                    return self._literal(found, component, name, (*seen, value))
        where = f"bundle {self.name}, {component.file}: {component.name}.{name}"
        raise ConfigurationError(f"{where} must be literal, is {value!r}, which is not run; give it in the description")


def _read(path: Path) -> Any:
    try:
        if (size := path.stat().st_size) > MOST_YAML:
            raise ValueError(f"must have at most {MOST_YAML} bytes, has {size}")
        return _READERS[path.suffix](path.read_text())
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigurationError(f"bundle: {path.name} cannot be read: {str(error).splitlines()[0]}") from error


def _built(content: Any) -> Iterator[dict[str, Any]]:
    """Everything, at any depth, that says what it is built of."""
    if isinstance(content, dict) and isinstance(content.get("_target_"), str):
        yield content
    children = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for child in children:
        yield from _built(child)


def _look_up(content: Any, reference: str) -> Any:
    """What `a#b` or `a::b` leads to, or None."""
    for key in re.split("#|::", reference):
        if isinstance(content, list) and key.isdigit() and int(key) < len(content):
            content = content[int(key)]
        elif isinstance(content, dict) and key in content:
            content = content[key]
        else:
            return None
    return content
