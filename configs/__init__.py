"""Configs: `load(Model, ...)` builds one experiment's settings; each bench owns its model, nothing here knows any.

    precedence: flag > --set key=value > --config FILE.toml > --preset > the model's defaults

An unknown key or a wrong type names the place it came from, the key, what is expected and the nearest known key.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Config = TypeVar("Config", bound=BaseModel)
PRESETS = "presets"
EXPECTED = {"model_type": "Input should be a table of keys", "tuple_type": "Input should be a list"}


class ConfigError(ValueError):
    """A setting is unknown or of the wrong type; the message says where it stands and what is expected."""

    exit_status: ClassVar[int] = 2


def presets(folder: str = PRESETS) -> list[str]:
    """The names of the presets that come with iobench; those of other models than the main job's have own folders."""
    found = (resources.files(__package__) / folder).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in found if entry.name.endswith(".toml"))


def load(
    model: type[Config],
    *,
    preset: str | None = None,
    folder: str = PRESETS,
    file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    spelled: Mapping[str, str] | None = None,
) -> Config:
    """Merge preset, file, `key=value` settings and flags (dotted keys; None means not given) into a `model`.

    `spelled` holds the option of each flag whose name is not its key's.  Raises ConfigError.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if preset is not None:
        layers.append((f"preset {preset}", _read_preset(preset, folder)))
    if file is not None:
        layers.append((str(file), _read_file(file)))
    layers += [(f"--set {text}", _parse_set(text)) for text in sets]
    for key, value in (flags or {}).items():
        if value is not None:
            option = (spelled or {}).get(key) or f"--{key.rsplit('.', 1)[-1].replace('_', '-')}"
            layers.append((option, _nest(key, value)))
    merged: dict[str, Any] = {}
    for _, layer in layers:
        _merge(merged, layer)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(model, error, layers, flags or {})) from None


def _read_preset(name: str, folder: str) -> dict[str, Any]:
    if name not in presets(folder):
        near = difflib.get_close_matches(name, presets(folder), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"preset {name!r} is not known; {hint}presets are: {', '.join(presets(folder))}")
    return tomllib.loads((resources.files(__package__) / folder / f"{name}.toml").read_text(encoding="utf-8"))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error


def _parse_set(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write key=value, as in --set storage.blocks=12")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    return _nest(key.strip(), parsed)


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


def _merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(
    model: type[BaseModel],
    error: ValidationError,
    layers: Sequence[tuple[str, dict[str, Any]]],
    flags: Mapping[str, Any],
) -> str:
    first = error.errors()[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    key = ".".join(path)
    origin = next((name for name, layer in reversed(layers) if _holds(layer, path)), "the defaults")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(_keys(model)), n=1, cutoff=0.4)
        hint = f"the nearest known key is {near[0]!r}" if near else f"known keys: {', '.join(_keys(model))}"
        return f"{origin}: key {key!r} is not known; {hint}"
    if first["type"] == "missing":
        way = f"--{key.replace('_', '-')}" if key in flags else f"--set {key}=..."
        choices = get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
        return f"key {key!r} is not given; give {way}" + (f": {', '.join(map(str, choices))}" if choices else "")
    rule = EXPECTED.get(first["type"], first["msg"].removeprefix("Value error, "))
    if not path:  # each is right by itself
        together = ", ".join(name for name, layer in layers if layer)
        return f"{together}: settings that do not go together: {rule}"
    return f"{origin}: key {key!r} is {first['input']!r}: {rule}"


def _holds(layer: Mapping[str, Any], path: Sequence[str]) -> bool:
    inside: Any = layer
    for part in path:
        if not isinstance(inside, Mapping) or part not in inside:
            return False
        inside = inside[part]
    return True


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        nested = next((kind for kind in inner if issubclass(kind, BaseModel)), None)
        key = prefix + (field.alias or name)
        if nested is None:
            yield key
        else:
            yield from _keys(nested, f"{key}.")
