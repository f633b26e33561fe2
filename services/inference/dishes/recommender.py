"""Ranks dishes for ranked labels. The dietary restrictions filter the dishes before anything else happens."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.classifiers.keywords import KeywordClassifier, stems
from services.inference.classifiers.ranking import Intent
from services.inference.classifiers.taxonomy import Taxonomy
from services.inference.dishes.catalogue import Catalogue, Dish

CONTEXT_WEIGHT = 0.3
TAG_WEIGHT = 0.15


@dataclass(frozen=True)
class RankedDish:
    """A dish, its score in (0, 1] relative to the best dish of the answer, and a sentence that says why."""

    dish: Dish
    score: float
    reasoning: str


class Recommender:
    """Recommends dishes with a taxonomy and a catalogue. Threads may share it."""

    def __init__(self, taxonomy: Taxonomy, catalogue: Catalogue) -> None:
        self._taxonomy = taxonomy
        self.catalogue = catalogue
        self._stems_of_dish = {
            name: frozenset(stem for text in (name, *dish.tags) for stem in stems(text))
            for name, dish in catalogue.dishes.items()
        }
        self._context_classifiers = {
            field: KeywordClassifier(taxonomy.in_categories(categories))
            for field, categories in taxonomy.context_categories.items()
        }

    def recommend(
        self,
        query: str,
        intents: Sequence[Intent],
        context: Mapping[str, str],
        required_diets: frozenset[str],
        max_dishes: int,
    ) -> list[RankedDish]:
        """Return at most max_dishes dishes, best first. Each of them satisfies all the required diets.

        Without a taxonomy or a catalogue, the list is empty.
        """
        weights = self._label_weights(intents, context)
        words = frozenset(stems(query))
        scores: dict[str, float] = defaultdict(float)
        labels_of: dict[str, list[str]] = defaultdict(list)
        for label, weight in weights.items():
            for name in self._taxonomy.entries[label].dishes:
                dish = self.catalogue.dishes.get(name)
                if dish is not None and required_diets <= dish.diets:
                    scores[name] += weight
                    labels_of[name].append(label)
        for name in scores:
            scores[name] += TAG_WEIGHT * len(words & self._stems_of_dish[name])
        best = sorted(scores, key=lambda name: (-scores[name], name))[:max_dishes]
        highest = max(scores.values(), default=1.0)
        return [
            RankedDish(
                self.catalogue.dishes[name],
                scores[name] / highest,
                self._reasoning(labels_of[name], required_diets),
            )
            for name in best
        ]

    def _label_weights(self, intents: Sequence[Intent], context: Mapping[str, str]) -> dict[str, float]:
        weights: dict[str, float] = defaultdict(float)
        for rank, intent in enumerate(intents, start=1):
            if intent.label in self._taxonomy.entries:
                weights[intent.label] += intent.confidence or 1 / (10 * rank)
        for field, said in context.items():
            for label in self._context_labels(field, said):
                weights[label] += CONTEXT_WEIGHT
        if not weights and self._taxonomy.label_when_unknown in self._taxonomy.entries:
            weights[self._taxonomy.label_when_unknown] = 1.0
        return weights

    def _context_labels(self, field: str, said: str) -> list[str]:
        classifier = self._context_classifiers.get(field)
        if classifier is None or not said.strip():
            return []
        (ranking,) = classifier.rank([said], 1, [])
        return [intent.label for intent in ranking.intents]

    def _reasoning(self, labels: Sequence[str], required: frozenset[str]) -> str:
        entries = [self._taxonomy.entries[label] for label in labels]
        wishes = ", ".join(f"{entry.plain_name} ({entry.category})" for entry in entries)
        diets = f" It is {', '.join(sorted(required)).replace('_', ' ')}." if required else ""
        return f"Fits {wishes}.{diets}"
