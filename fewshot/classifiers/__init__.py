"""Few-shot classifiers: scikit-learn estimators on embeddings, one file per method."""

from fewshot.classifiers.base import FewShotClassifier, Membership
from fewshot.classifiers.cosine_head import CosineHeadClassifier
from fewshot.classifiers.discriminant import LinearDiscriminantClassifier, MahalanobisClassifier
from fewshot.classifiers.logistic import LogisticRegressionClassifier
from fewshot.classifiers.matching import CacheClassifier, MatchingClassifier
from fewshot.classifiers.nearest_neighbor import NearestNeighborClassifier
from fewshot.classifiers.prototype import PrototypeClassifier
from fewshot.classifiers.ridge import RidgeClassifier
from fewshot.classifiers.simple_shot import SimpleShotClassifier

__all__ = [
    "CacheClassifier",
    "CosineHeadClassifier",
    "FewShotClassifier",
    "LinearDiscriminantClassifier",
    "LogisticRegressionClassifier",
    "MahalanobisClassifier",
    "MatchingClassifier",
    "Membership",
    "NearestNeighborClassifier",
    "PrototypeClassifier",
    "RidgeClassifier",
    "SimpleShotClassifier",
]
