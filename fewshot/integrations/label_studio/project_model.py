"""A registry's predictions for the tasks of a Label Studio project."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewshot.integrations.label_studio.label_studio_client import LabelStudioClient
from fewshot.integrations.label_studio.labeling_config import Control
from fewshot.integrations.label_studio.suggestions import CONFIDENT, LabelSuggester, Suggestion
from fewshot.integrations.label_studio.task_images import fetch_images
from fewshot.integrations.label_studio.tasks import QueryImage, prediction_of, query_images
from fewshot.registry import AnnotationSnapshot, ClassRegistry

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


log = logging.getLogger("fewshot.integrations.label_studio.project_model")


def model_version(state: tuple[int, int]) -> str:
    """Return the model version of a registry's (revision, rewrites): another whenever annotations were applied."""
    return f"fewshot-{state[0]}"


@dataclass(frozen=True)
class ProjectModel:
    """A suggester for each control, in one state of the registry.

    Attributes
    ----------
    version : str
    suggesters : mapping of Control to LabelSuggester
    min_score : float
        Suggestions of a lower score are left out.
    """

    version: str
    suggesters: Mapping[Control, LabelSuggester]
    min_score: float

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], encoder: Encoder, client: LabelStudioClient, context: object = None
    ) -> list[dict[str, Any]]:
        """Return one prediction a task, in their order; an empty one for a task whose image cannot be had."""
        from fewshot.encoders import encode_valid

        controls = [control for control, suggester in self.suggesters.items() if not suggester.is_empty]
        queries = [
            (number, query) for number, task in enumerate(tasks) for query in query_images(task, controls, context)
        ]
        suggested: list[list[tuple[QueryImage, Suggestion]]] = [[] for _ in tasks]
        for batch in fetch_images([query for _, query in queries], client):
            there = [position for position, image in batch if not isinstance(image, Exception)]
            encoded = encode_valid(encoder, [image for _, image in batch if not isinstance(image, Exception)])
            failed = [(position, image) for position, image in batch if isinstance(image, Exception)]
            for position, why in failed + [(there[n], error) for n, error in encoded.failed]:
                log.warning("no suggestion for task %s: %s", tasks[queries[position][0]].get("id"), why)
            readable = [queries[there[n]] for n in encoded.kept.tolist()]
            found = self._suggest([query for _, query in readable], encoded.vectors)
            for (number, query), suggestion in zip(readable, found, strict=True):
                suggested[number].append((query, suggestion))
        return [prediction_of(of_task, self.version, self.min_score) for of_task in suggested]

    def _suggest(self, queries: Sequence[QueryImage], vectors: NDArray[np.float32]) -> list[Suggestion]:
        """Classify q queries, given their embeddings (q, d), those of each control together."""
        found: dict[int, Suggestion] = {}
        for control in dict.fromkeys(query.control for query in queries):
            mine = [n for n, query in enumerate(queries) if query.control == control]
            found.update(zip(mine, self.suggesters[control].suggest(vectors[mine]), strict=True))
        return [found[n] for n in range(len(queries))]


class ProjectPredictor:
    """Makes the project's model, and remakes it when the registry or the controls change.

    Parameters
    ----------
    only_confident : bool
        Whether suggestions of a score under ``CONFIDENT`` are left out.
    """

    def __init__(self, *, only_confident: bool = False) -> None:
        self._min_score = CONFIDENT if only_confident else 0.0
        self._snapshot: AnnotationSnapshot | None = None
        self._suggesters: dict[Control, LabelSuggester] = {}

    def model(self, controls: Sequence[Control], registry: ClassRegistry) -> ProjectModel:
        """Return the model of the registry as it is now."""
        if self._snapshot is None or self._snapshot.examples.state[0] != registry.revision:
            self._snapshot, self._suggesters = registry.annotations(), {}
        snapshot, known, encoder = self._snapshot, self._suggesters, registry.encoder
        controls = [control for control in controls if control.modality == registry.modality]
        self._suggesters = {
            control: known.get(control) or LabelSuggester(control, snapshot, encoder) for control in controls
        }
        return ProjectModel(model_version(snapshot.examples.state), self._suggesters, self._min_score)
