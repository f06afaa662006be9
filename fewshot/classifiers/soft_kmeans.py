"""Soft k-means: class means refined by the queries, softly assigned."""

from __future__ import annotations

from torch import Tensor

from fewshot.classifiers.transductive import Task, TransductiveClassifier, soft_means, squared_distances
from fewshot.validation import check_count


class SoftKMeansClassifier(TransductiveClassifier):
    """Classify by class means that soft k-means has refined with the queries; transductive.

    Parameters
    ----------
    scale : float, default 5.0
        Inverse temperature of the assignments softmax(-scale |f - mu|^2).
    n_iter : int, default 10

    Notes
    -----
    Makes no assumption on the class proportions. ``scores`` are minus scaled squared distances to the refined means.

    References
    ----------
    Ren et al. 2018, arXiv:1803.00676, eq. 2-3; scale as in Bendou et al. 2022, arXiv:2201.09699 (EASY), where
    embeddings are centred too.

    Examples
    --------
    >>> from fewshot import SoftKMeansClassifier
    >>> classifier = SoftKMeansClassifier().fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [1.0, 0.6], [0.3, 0.8], [0.1, 0.9]]).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(self, *, scale: float = 5.0, n_iter: int = 10) -> None:
        self.scale = scale
        self.n_iter = n_iter

    def _refined(self, task: Task, query: Tensor) -> Tensor:
        check_count("n_iter", self.n_iter, minimum=0)
        means = task.means
        for _ in range(self.n_iter):
            means = soft_means(task, query, self._logits(query, means).softmax(dim=-1))
        return self._logits(query, means)

    def _logits(self, query: Tensor, means: Tensor) -> Tensor:
        return -self.scale * squared_distances(query, means)
