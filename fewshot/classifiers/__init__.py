"""Few-shot classifiers: scikit-learn estimators on embeddings, one file per method."""

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.calibration import DistributionCalibrationClassifier
from fewshot.classifiers.cosine_head import CosineHeadClassifier
from fewshot.classifiers.discriminant import LinearDiscriminantClassifier, MahalanobisClassifier
from fewshot.classifiers.information import AlphaTIMClassifier, TIMClassifier, TransductiveFineTuningClassifier
from fewshot.classifiers.logistic import LogisticRegressionClassifier
from fewshot.classifiers.matching import CacheClassifier, MatchingClassifier
from fewshot.classifiers.membership import Membership
from fewshot.classifiers.nearest_neighbor import NearestNeighborClassifier
from fewshot.classifiers.prototype import PrototypeClassifier
from fewshot.classifiers.pt_map import PTMAPClassifier
from fewshot.classifiers.rectified import BDCSPNClassifier, LaplacianShotClassifier
from fewshot.classifiers.ridge import RidgeClassifier
from fewshot.classifiers.simple_shot import SimpleShotClassifier
from fewshot.classifiers.soft_kmeans import SoftKMeansClassifier

__all__ = [
    "AlphaTIMClassifier",
    "BDCSPNClassifier",
    "CacheClassifier",
    "CosineHeadClassifier",
    "DistributionCalibrationClassifier",
    "FewShotClassifier",
    "LaplacianShotClassifier",
    "LinearDiscriminantClassifier",
    "LogisticRegressionClassifier",
    "MahalanobisClassifier",
    "MatchingClassifier",
    "Membership",
    "NearestNeighborClassifier",
    "PTMAPClassifier",
    "PrototypeClassifier",
    "RidgeClassifier",
    "SimpleShotClassifier",
    "SoftKMeansClassifier",
    "TIMClassifier",
    "TransductiveFineTuningClassifier",
]
