"""Reads the catalogue file: the dishes and the diets that they satisfy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.inference.errors import BrokenData, InvalidQuery


@dataclass(frozen=True)
class Dish:
    """One dish. `diets` has every diet that the dish satisfies."""

    name: str
    region: str
    culture: str
    category: str
    tags: tuple[str, ...]
    diets: frozenset[str]


@dataclass(frozen=True)
class Catalogue:
    """All dishes by name, and every diet that a caller may ask for."""

    dishes: Mapping[str, Dish]
    diets: tuple[str, ...]

    def resolve_diets(self, restrictions: Sequence[str]) -> frozenset[str]:
        """Return the names of the diets for a caller's dietary restrictions: "Nut-free" becomes "nut_free".

        Raises:
            InvalidQuery: the catalogue does not know a restriction. To ignore it could harm the caller.

        """
        names = [restriction.strip().lower().replace("-", "_").replace(" ", "_") for restriction in restrictions]
        for index, name in enumerate(names):
            if name not in self.diets:
                known = f"use one of {', '.join(self.diets)}" if self.diets else "this service knows none"
                raise InvalidQuery(f"context.dietary_restrictions[{index}]", f"is not a known diet; {known}")
        return frozenset(names)


NO_CATALOGUE = Catalogue({}, ())


def load_catalogue(path: Path | None) -> Catalogue:
    """Return the catalogue in a file; None gives a catalogue without dishes.

    Raises:
        BrokenData: the file is missing or is not a catalogue, or a dish has a diet that the file does not list.

    """
    if path is None:
        return NO_CATALOGUE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        dishes = tuple(_dish(item) for item in content["dishes"])
        diets = tuple(str(diet) for diet in content["diets"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenData(f"cannot read the catalogue {path}: {error!r}") from error
    for dish in dishes:
        if not dish.diets <= set(diets):
            raise BrokenData(f"{path}: {dish.name} has diets that are not in the list of diets; add them to the list")
    return Catalogue({dish.name: dish for dish in dishes}, diets)


def _dish(item: Mapping[str, object]) -> Dish:
    return Dish(
        name=str(item["name"]),
        region=str(item["region"]),
        culture=str(item["culture"]),
        category=str(item["category"]),
        tags=_strings(item["tags"]),
        diets=frozenset(_strings(item["diets"])),
    )


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return tuple(str(item) for item in value)
