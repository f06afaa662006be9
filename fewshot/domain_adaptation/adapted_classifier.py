"""A few-shot method on embeddings adapted to its own episode."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers import FewShotClassifier, Membership
from fewshot.validation import check_choice
from fewshot.vectors import Covariance, check_shrinkage, mean_of

EpisodeAdaptation = Literal["center", "whiten"]
EPISODE_ADAPTATIONS: tuple[EpisodeAdaptation, ...] = get_args(EpisodeAdaptation)


class AdaptedClassifier(FewShotClassifier):
    """Classify after adapting the embeddings to the support and the queries together; transductive.

    As a ``DomainAdapter`` fitted to the episode's own support and queries. A single query is classified without
    adaptation.

    Parameters
    ----------
    classifier : FewShotClassifier
        Classifies the adapted embeddings; not changed.
    adaptation : {"center", "whiten"}, default "center"
        As ``DomainAdapter``'s, with its L2 normalisation. The few classes of an episode are most of its variance:
        "center" gains with one example a class, "whiten" mostly costs accuracy.
    shrinkage : float, default 0.9
        Of "whiten".

    Notes
    -----
    ``scores`` are the classifier's; probabilities are made of them as for any method.

    Examples
    --------
    >>> from fewshot import PrototypeClassifier
    >>> from fewshot.domain_adaptation import AdaptedClassifier
    >>> classifier = AdaptedClassifier(PrototypeClassifier()).fit([[5, 1], [5, -1]], ["up", "down"])
    >>> classifier.predict([[5, 2], [6, -1]]).tolist()
    ['up', 'down']
    """

    transductive = True

    def __init__(
        self, classifier: FewShotClassifier, *, adaptation: EpisodeAdaptation = "center", shrinkage: float = 0.9
    ) -> None:
        self.classifier = classifier
        self.adaptation = adaptation
        self.shrinkage = shrinkage

    def _learn(self, support: Tensor, membership: Membership) -> tuple[Tensor, Membership]:
        check_choice("adaptation", self.adaptation, EPISODE_ADAPTATIONS)
        check_shrinkage(self.shrinkage)
        return support, membership

    def _scores(self, learned: Any, query: Tensor) -> Tensor:
        support, membership = learned
        if query.shape[1] > 1:
            support, query = self._adapted(support, membership.labels >= 0, query)
        return self.classifier.episode_scores(support, membership.labels, query, n_classes=membership.n_classes)

    def _adapted(self, support: Tensor, real: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        together = normalize(torch.cat([support, query], dim=1), dim=-1)
        real = torch.cat([real, real.new_ones(query.shape[:2])], dim=1)
        if self.adaptation == "center":
            together = together - mean_of(together, real)
        else:
            together = Covariance.of(together, real, self.shrinkage).whitened(together)
        return together[:, : support.shape[1]], together[:, support.shape[1] :]
