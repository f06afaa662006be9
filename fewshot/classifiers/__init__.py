"""Few-shot classifiers: scikit-learn estimators on embeddings, one file per method."""

from fewshot.classifiers.base import FewShotClassifier, Membership
from fewshot.classifiers.nearest_neighbor import NearestNeighborClassifier
from fewshot.classifiers.prototype import PrototypeClassifier

__all__ = ["FewShotClassifier", "Membership", "NearestNeighborClassifier", "PrototypeClassifier"]
