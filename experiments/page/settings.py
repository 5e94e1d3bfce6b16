"""What the report was given or chose, beside a run's own configuration where the names match."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.files import plain
from experiments.base import results
from experiments.base.options import settings_in

SPLIT = "split"
SEEDS = ("seed", "seeds")
"""How the names of settings end that say what chance depends on."""


@dataclass(frozen=True)
class Setting:
    """One setting. ours: None where the run's configuration has no field of this name."""

    name: str
    reported: str
    place: str
    note: str
    ours: str | None


@dataclass(frozen=True)
class Difference:
    """A setting that is not the report's preset's."""

    name: str
    preset: str
    ours: str


def differences(preset: Any, model: Mapping[str, object]) -> list[Difference]:
    """Every setting of a run's configuration, as config.json has it, that differs from a preset's."""
    usual, own = settings_in(plain(asdict(preset))), settings_in(model)
    return [
        Difference(name, text(usual[name]) if name in usual else "–", text(value))
        for name, value in own.items()
        if name not in usual or usual[name] != value
    ]


def seeds(config: Mapping[str, Any]) -> dict[str, str]:
    """The seeds of a run by name, as config.json has them."""
    held = settings_in(config.get("options", {})) | settings_in(config.get("model", {}))
    return {name: text(value) for name, value in held.items() if re.split(r"[._]", name)[-1] in SEEDS}


def settings(experiment: str, model: Mapping[str, object], parts: tuple[int, ...]) -> list[Setting]:
    """The report's settings of an experiment in its order. parts: patients that were trained, validated and tested on.

    ``a__b`` of the report is the field b of the model a; where several models differ in a field, each is named.
    """
    fields = dict(_fields(model))
    found = []
    for name, entry in results.reported("settings").get(experiment, {}).items():
        ours = " / ".join(map(str, parts)) + " patients" if name.endswith(SPLIT) and parts else _own(fields, name)
        found.append(Setting(name, text(entry.value), entry.place, entry.note, ours))
    return found


def _own(fields: Mapping[tuple[str, ...], object], name: str) -> str | None:
    wanted = tuple(name.lower().split("__"))
    values = {path: text(value) for path, value in fields.items() if path[-len(wanted) :] == wanted}
    if len(set(values.values())) <= 1:
        return next(iter(values.values()), None)
    return "; ".join(f"{path[0]}: {value}" for path, value in values.items())


def _fields(model: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in model.items():
        if isinstance(value, Mapping):
            yield from _fields(value, (*path, name.lower()))
        else:
            yield (*path, name.lower()), value


def text(value: object) -> str:
    """A setting as it is read: lists with commas, nested ones in brackets."""
    if isinstance(value, list):
        return ", ".join(f"[{text(item)}]" if isinstance(item, list) else text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
