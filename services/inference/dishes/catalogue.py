"""The dishes and the diets they satisfy, as data/catalogue describes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.inference.errors import BrokenData, InvalidQuery


@dataclass(frozen=True)
class Dish:
    """One dish. `diets` names every diet the dish satisfies."""

    name: str
    region: str
    culture: str
    category: str
    tags: tuple[str, ...]
    diets: frozenset[str]


@dataclass(frozen=True)
class Catalogue:
    """All dishes by name, and every diet the catalogue makes a statement about."""

    dishes: Mapping[str, Dish]
    diets: tuple[str, ...]

    def resolve_diets(self, restrictions: Sequence[str]) -> frozenset[str]:
        """Return the catalogue's names for a caller's restrictions ("Nut-free" is nut_free).

        Raises:
            InvalidQuery: a restriction the catalogue knows nothing about; ignoring it could do harm.

        """
        names = [restriction.strip().lower().replace("-", "_").replace(" ", "_") for restriction in restrictions]
        for index, name in enumerate(names):
            if name not in self.diets:
                known = f"use one of {', '.join(self.diets)}" if self.diets else "this service knows none"
                raise InvalidQuery(f"context.dietary_restrictions[{index}]", f"is no known diet; {known}")
        return frozenset(names)


NO_CATALOGUE = Catalogue({}, ())


def load_catalogue(path: Path | None) -> Catalogue:
    """Read a catalogue file; a data folder of another domain has none, and None gives a catalogue without dishes.

    Raises:
        BrokenData: the file is missing, not a catalogue, or gives a dish a diet that it does not list.

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
            raise BrokenData(f"{path}: {dish.name} claims diets that the file does not list")
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
