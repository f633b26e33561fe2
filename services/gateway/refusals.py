"""Says what is wrong with a body or a query parameter, and what was probably meant.

Litestar and msgspec find the error. Here its place is looked up in the types of the route, so that the text can name
the fields that exist there, where a misplaced field belongs, and the values that are allowed.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from msgspec.inspect import LiteralType, StructType, Type, UnionType

BODY = "data"  # Litestar's name of a handler's body
MAX_NAME_CHARS = 80  # of a wrong name that is compared with the known ones and shown

_WRONG_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.+)`")
_WRONG_VALUE = "Invalid enum value"


class InvalidBody(Exception):
    """The body or the query says too much or too little; names the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def refuse_unknown_parameters(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Check the names of the query parameters; a guard of Litestar.

    Raises:
        InvalidBody: the route has no such parameter.

    """
    if not connection.query_params:
        return
    known = [
        name
        for name, parameter in handler.parsed_fn_signature.parameters.items()
        if isinstance(parameter.kwarg_definition, QueryParameter)
    ]
    for name in connection.query_params:
        if name not in known:
            shown = name[:MAX_NAME_CHARS]
            raise InvalidBody(shown, _advise(shown, "", {"": known}, "query parameters"))


def explain(handler: BaseRouteHandler, complaint: Mapping[str, Any]) -> dict[str, str]:
    """Return the field at fault and what is wrong with it, from one entry of a ValidationException's `extra`."""
    place, message = str(complaint.get("key", "")), str(complaint.get("message", ""))
    in_body = complaint.get("source") == "body"
    place = "" if in_body and place == BODY else place
    wrong_field = _WRONG_FIELD.match(message)
    if wrong_field and in_body:
        name = wrong_field[2][:MAX_NAME_CHARS]
        missing = wrong_field[1] == "missing required"
        objects = find_objects(_type_of(handler, BODY))
        return {
            "field": f"{place}.{name}" if place else name,
            "description": "is missing" if missing else _advise(name, place, objects, "fields"),
        }
    if message.startswith(_WRONG_VALUE):
        allowed = (
            _allowed_values(_type_of(handler, BODY), place) if in_body else _allowed_values(_type_of(handler, place))
        )
        return {"field": place, "description": f"use one of {', '.join(filter(None, allowed))}"}
    return {"field": place or BODY, "description": message}


def find_objects(kind: Type, place: str = "") -> dict[str, list[str]]:
    """Return the names of the fields of a body, and of the objects in it, by place: "" is the body itself."""
    found: dict[str, list[str]] = {}
    for struct in _structs(kind):
        found[place] = [field.encode_name for field in struct.fields]
        for field in struct.fields:
            found |= find_objects(field.type, f"{place}.{field.encode_name}".lstrip("."))
    return found


def _advise(name: str, place: str, objects: Mapping[str, Collection[str]], what: str) -> str:
    here = objects.get(place, ())
    elsewhere = {field: other for other, fields in objects.items() if other != place for field in fields}
    if name in elsewhere:
        return f"does not belong here; put it {_tell_place(elsewhere[name])}"
    if meant := _find_similar(name, here):
        return f"is unknown; did you mean '{meant}'?"
    if meant := _find_similar(name, elsewhere):
        return f"is unknown; did you mean '{meant}' {_tell_place(elsewhere[meant])}?"
    return f"is unknown; the {what} here are {', '.join(here)}" if here else f"is unknown; there are no {what} here"


def _tell_place(place: str) -> str:
    return f"inside '{place}'" if place else "at the top level of the body"


def _find_similar(name: str, known: Collection[str]) -> str | None:
    plain = {_simplify(candidate): candidate for candidate in known}
    similar = get_close_matches(_simplify(name), plain, n=1)
    return plain[similar[0]] if similar else None


def _simplify(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


def _type_of(handler: BaseRouteHandler, parameter: str) -> Type:
    return msgspec.inspect.type_info(handler.parsed_fn_signature.parameters[parameter].annotation)


def _allowed_values(kind: Type, place: str = "") -> list[str]:
    for name in filter(None, place.split(".")):
        kind = next(field.type for struct in _structs(kind) for field in struct.fields if field.encode_name == name)
    return [str(value) for literal in _members(kind) if isinstance(literal, LiteralType) for value in literal.values]


def _structs(kind: Type) -> list[StructType]:
    return [member for member in _members(kind) if isinstance(member, StructType)]


def _members(kind: Type) -> Iterator[Type]:
    yield from kind.types if isinstance(kind, UnionType) else (kind,)
