from .adaptation_report import AdaptationReport as AdaptationReport
from .adapted_classifier import EPISODE_ADAPTATIONS as EPISODE_ADAPTATIONS
from .adapted_classifier import AdaptedClassifier as AdaptedClassifier
from .adapted_classifier import EpisodeAdaptation as EpisodeAdaptation
from .adapter import DomainAdapter as DomainAdapter
