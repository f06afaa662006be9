"""Domain adaptation: what unlabelled pictures of the place of use tell, without naming a class."""

from fewshot.domain.adapter import DomainAdapter
from fewshot.domain.episodes import AdaptedClassifier
from fewshot.domain.report import DomainReport

__all__ = ["AdaptedClassifier", "DomainAdapter", "DomainReport"]
