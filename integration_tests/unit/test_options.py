"""Options are checked, described and listed from one declaration: of a class, or of a signature."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from balenas_plugin.errors import OptionError
from balenas_plugin.options import (
    OneOf,
    Positive,
    PositiveInt,
    checked,
    declared_options,
    default_options,
    given_options,
    json_schema,
    read_options,
    signature_options,
)

WORDS = ["red"]


@declared_options("outer.inner")
@dataclass(frozen=True, kw_only=True)
class Inner:
    """What is inside.

    Args:
        rate: in steps; with
            a second line: and a colon.
        pair: two shares.

    Raises:
        OptionError: rate and pair contradict each other.
    """

    rate: Positive = 1.0
    pair: tuple[Annotated[float, Field(ge=0, lt=1)], float] | None = None

    def __post_init__(self) -> None:
        if self.pair == (0.5, self.rate):
            raise OptionError("rate and pair contradict each other")


@declared_options("outer")
@dataclass(frozen=True, kw_only=True)
class Outer:
    """What is outside."""

    count: Annotated[int, Field(ge=1, le=9)] = 1
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    flag: bool = False
    mode: bool | Literal["auto"] = "auto"
    colour: Annotated[str, OneOf(lambda: WORDS)] = "red"
    number: int | float = 0
    inner: Inner = field(default_factory=Inner)
    free: Mapping[str, Any] = field(default_factory=dict)


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises(OptionError) as raised:
        make()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": 0}, "outer.count must be a whole number of at least 1, got 0"),
        ({"count": 10**30}, f"outer.count must be at most 9, got {10**30}"),
        ({"count": True}, "outer.count must be a whole number of at least 1, got True"),
        ({"count": "1"}, "outer.count must be a whole number of at least 1, got '1'"),
        ({"count": 1.0}, "outer.count must be a whole number of at least 1, got 1.0"),
        ({"share": 1}, "outer.share must be a number between 0 and 1, both excluded, got 1"),
        ({"share": float("nan")}, "outer.share must be a number between 0 and 1, both excluded, got nan"),
        ({"flag": 1}, "outer.flag must be true or false, got 1"),
        ({"flag": "true"}, "outer.flag must be true or false, got 'true'"),
        ({"mode": "atuo"}, "outer.mode must be one of auto, true, false, got 'atuo'; did you mean 'auto'?"),
        ({"colour": "reed"}, "outer.colour must be red, got 'reed'; did you mean 'red'?"),
        ({"number": True}, "outer.number must be a number, got True"),
        ({"inner": 3}, "outer.inner must be a mapping of options, got 3"),
        ({"inner": {"rate": float("inf")}}, "outer.inner.rate must be a positive number, got inf"),
        ({"inner": {"rate": 1e39}}, "outer.inner.rate must be at most 3.4e+38, got 1e+39"),
        ({"inner": {"rate": 10**400}}, "outer.inner.rate must be a positive number, got 1000"),
        ({"inner": {"pair": [1, 1]}}, "outer.inner.pair must be 2 numbers in [0, 1), got [1, 1]"),
        ({"inner": {"pair": [0.5, 1]}}, "rate and pair contradict each other"),
        ({"inner": {"rat": 1}}, "outer.inner has no option 'rat'; did you mean 'rate'? Options: rate, pair"),
        ({"free": {1: 2}}, "outer.free must be a mapping of options, got {1: 2}"),
        ({1: 2}, "outer has no option 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option_and_what_is_allowed(given: dict, expected: str) -> None:
    assert refused(lambda: read_options(Outer, given)).startswith(expected)


def test_an_unknown_option_is_reported_before_a_wrong_value() -> None:
    assert "has no option 'x'" in refused(lambda: read_options(Outer, {"count": 0, "x": 1}))


def test_options_are_checked_however_they_are_made() -> None:
    made = Outer(number=1, inner=Inner(rate=2))
    assert made == read_options(Outer, {"number": 1, "inner": {"rate": 2.0}})
    assert type(made.number) is int  # a share and a number of batches are not the same
    assert copy.deepcopy(made) == made
    assert read_options(Outer, made) is made
    assert read_options(Inner, {"pair": [0, 3]}).pair == (0.0, 3.0)
    assert "outer.inner.rate must be" in refused(lambda: Inner(rate=-1))
    assert "outer.count must be" in refused(lambda: replace(made, count=0))
    assert "outer has no option 'x'" in refused(lambda: Outer(x=1))


def test_words_of_a_registry_are_asked_for_at_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "WORDS", ["green"])
    assert Outer(colour="green").colour == "green"
    assert json_schema(Outer)["properties"]["colour"]["enum"] == ["green"]


def test_the_schema_has_types_bounds_defaults_and_descriptions() -> None:
    schema = json_schema(Outer)
    assert schema["properties"]["count"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 1}
    assert schema["additionalProperties"] is False
    inner = schema["$defs"]["Inner"]
    assert inner["description"] == "What is inside."
    assert inner["properties"]["rate"]["description"] == "in steps; with a second line: and a colon."
    assert inner["properties"]["pair"]["description"] == "two shares."


class Base:
    """A base.

    Args:
        width: of the base.
    """

    def __init__(self, width: int, scale=1.0, hook: Callable[[], int] | None = None) -> None:
        pass


class Part(Base):
    """A part.

    Args:
        name: which.
    """

    def __init__(self, *, name: Literal["a", "b"] = "a", sizes=(1, 2), **kwargs: Any) -> None:
        super().__init__(**kwargs)


def test_a_signature_is_an_options_class_too() -> None:
    cls = signature_options(Part, "part", without=("hook",))
    schema = json_schema(cls)
    assert list(schema["properties"]) == ["name", "sizes", "width", "scale"]
    assert schema["required"] == ["width"]
    assert schema["properties"]["width"]["description"] == "of the base."
    assert schema["properties"]["name"] == {
        "type": "string",
        "enum": ["a", "b"],
        "default": "a",
        "description": "which.",
    }
    assert default_options(cls) == {"name": "a", "sizes": (1, 2), "scale": 1.0}
    assert given_options(cls, {"width": 3, "scale": 2}) == {"width": 3, "scale": 2}
    assert refused(lambda: cls()) == "part needs the option width"
    assert refused(lambda: cls(width=1, scale="2")) == "part.scale must be a number, got '2'"
    assert "part has no option 'widht'; did you mean 'width'?" in refused(lambda: cls(width=1, widht=2))


def test_a_function_that_takes_anything_takes_it() -> None:
    def factory(size: int = 1, **kwargs: Any) -> None: ...

    cls = signature_options(factory, "factory")
    assert given_options(cls, {"size": 2, "other": 3}) == {"size": 2, "other": 3}
    assert refused(lambda: cls(size="2")) == "factory.size must be a whole number, got '2'"


def test_one_value_against_a_type() -> None:
    checked("--top", 3, PositiveInt)
    assert refused(lambda: checked("--top", 0, PositiveInt)) == "--top must be a whole number of at least 1, got 0"
    assert refused(lambda: checked("--mode", "b", Literal["a", "c"])) == "--mode must be one of a, c, got 'b'."
