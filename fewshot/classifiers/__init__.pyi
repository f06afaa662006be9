from .base import FewShotClassifier as FewShotClassifier
from .bd_cspn import BDCSPNClassifier as BDCSPNClassifier
from .cache_classifier import CacheClassifier as CacheClassifier
from .class_index import ClassIndex as ClassIndex
from .class_index import SomeClasses as SomeClasses
from .cosine_head import CosineHeadClassifier as CosineHeadClassifier
from .discriminant import LinearDiscriminantClassifier as LinearDiscriminantClassifier
from .discriminant import MahalanobisClassifier as MahalanobisClassifier
from .distribution_calibration import DistributionCalibrationClassifier as DistributionCalibrationClassifier
from .laplacian_shot import LaplacianShotClassifier as LaplacianShotClassifier
from .logistic import LogisticRegressionClassifier as LogisticRegressionClassifier
from .logistic import Weights as Weights
from .matching import MatchingClassifier as MatchingClassifier
from .membership import Membership as Membership
from .nearest_neighbor import NearestNeighborClassifier as NearestNeighborClassifier
from .prototype import PrototypeClassifier as PrototypeClassifier
from .pt_map import PTMAPClassifier as PTMAPClassifier
from .ranking import Beside as Beside
from .ridge import RidgeClassifier as RidgeClassifier
from .simple_shot import SimpleShotClassifier as SimpleShotClassifier
from .soft_kmeans import SoftKMeansClassifier as SoftKMeansClassifier
from .tim import AlphaTIMClassifier as AlphaTIMClassifier
from .tim import TIMClassifier as TIMClassifier
from .tim import TransductiveFineTuningClassifier as TransductiveFineTuningClassifier
from .whitened_prototype import WhitenedPrototypeClassifier as WhitenedPrototypeClassifier

__all__: list[str]
