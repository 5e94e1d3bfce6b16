"""What a configuration's fields must hold, and the error that says so."""

from collections.abc import Iterable
from dataclasses import field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

LATER, APART = "later", "apart"


def later(default: Any) -> Any:
    """The default of a field that came after the first release: a run that keeps it keeps its name.

    Of such fields only other values are part of :func:`common.runs.configuration_hash`.
    """
    return field(default=default, metadata={LATER: True})


def apart(default: Any) -> Any:
    """The default of a field that says how a training is done and not what comes of it: no part of a run's name.

    So a run goes on with another value than it was begun with.
    """
    return field(default=default, metadata={APART: True})


def check(
    settings: Any,
    checks: Iterable[tuple[bool, str, str]] = (),
    *,
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
) -> None:
    """Raises ValueError, with the value received, for a field of a dataclass that holds what it must not.

    Literal fields must hold one of their choices, or None where they may. checks: whether a field is as wanted, its
    name, what is wanted. positive, not_negative: names of fields with a number above zero, and with zero or more.
    """
    checks = [
        *(
            (getattr(settings, each.name) in choices, each.name, f"one of {', '.join(map(str, choices))}")
            for each in fields(settings)
            if (choices := _choices(each.type))
        ),
        *((getattr(settings, name) > 0, name, "a positive number") for name in positive),
        *((getattr(settings, name) >= 0, name, "zero or more") for name in not_negative),
        *checks,
    ]
    for holds, name, wanted in checks:
        if not holds:
            raise ValueError(f"expected {name} to be {wanted}, received {getattr(settings, name)!r}")


def _choices(kind: Any) -> list[Any]:
    """Values of a Literal, or of a Literal or None; of any other type none."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if not all(part is NoneType or get_origin(part) is Literal for part in parts):
        return []
    return [choice for part in parts for choice in get_args(part) or (None,)]
