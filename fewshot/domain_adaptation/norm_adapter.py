"""The batch norms of an encoder's network, fitted to target pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot.encoders import TimmEncoder, features, normalised
from fewshot.encoders.trainable import _folded
from fewshot.errors import ImageError
from fewshot.media import ImageSource, map_ahead
from fewshot.progress import Progress

_BATCH = 64
# Cosines are multiplied by this before a softmax: Hu et al. 2022 (P>M>F) learn a scale near 10.
_SCALE = 10.0


class NormAdapter:
    """A copy of an encoder's network, whose batch norms learn from target pictures; the encoder stays as it is.

    Parameters
    ----------
    encoder : TimmEncoder
    images : sequence of n image sources
    random_state : RandomState
        Draws the order of the pictures, for pictures in a row are often of one class.

    Raises
    ------
    ValueError : if the network has no batch norms, or only such as are folded into its weights.
    """

    def __init__(
        self, encoder: TimmEncoder, images: Sequence[ImageSource], random_state: np.random.RandomState
    ) -> None:
        self._encoder, self._loaded = encoder, encoder.loaded
        self._images, self._random_state = images, random_state
        self.network = encoder.exact_network()
        self._norms = _live_norms(self.network, encoder.name)
        self.network.to(self._loaded.device)

    def estimate(self, prior: float) -> None:
        """Set each norm's mean and variance to those of its input over the target pictures.

        Mixed with its own, which count as ``prior`` pictures: m = N / (N + n) m_source + n / (N + n) m_target, and the
        variances likewise. What a norm reads is already normalised so by the norms before it. Over several batches
        the moments are pooled: exactly those of all pictures, but that the first batches were normalised by fewer.

        References
        ----------
        Schneider et al. 2020, arXiv:2006.16971: the mixture with a pseudo sample size N.
        Li et al. 2016, arXiv:1603.04779: AdaBN, N = 0.
        """
        hooks = [norm.register_forward_pre_hook(_Moments(norm, prior)) for norm in self._norms]
        try:
            with torch.no_grad(), Progress(len(self._images), "batch norms") as bar:
                for x in self._batches():
                    self._features(x)
                    bar.advance(len(x))
        finally:
            for hook in hooks:
                hook.remove()

    def sharpen(self, n_clusters: int, epochs: int, learning_rate: float) -> None:
        """Learn the norms' scales and shifts by making the assignment of pictures to clusters more certain.

        Raises
        ------
        ValueError : for a learning rate at which nothing finite is left.

        References
        ----------
        Wang et al. 2021, arXiv:2006.10726, section 3. Departs from it in what is predicted, for an embedding has no
        class head: the classes are n clusters of the target embeddings, found once by k-means, and predictions the
        softmax of 10 times the cosine to their centres; and in statistics that stay as ``estimate`` left them.
        """
        with torch.no_grad():
            found = torch.cat([self._features(x) for x in self._batches()])
        clusters = KMeans(n_clusters, n_init=1, random_state=self._random_state).fit(found.cpu().numpy())
        centres = normalize(torch.from_numpy(clusters.cluster_centers_).to(found), dim=-1)
        weights = [weight for norm in self._norms for weight in norm.parameters(recurse=False)]
        for weight in weights:
            weight.requires_grad_(True)
        steps = torch.optim.Adam(weights, lr=learning_rate)
        with Progress(epochs * len(self._images), "entropy") as bar:
            for _ in range(epochs):
                for x in self._batches():
                    steps.zero_grad()
                    logits = _SCALE * self._features(x) @ centres.T
                    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
                    entropy.backward()  # type: ignore[no-untyped-call]
                    steps.step()
                    bar.advance(len(x))
        self.network.requires_grad_(False)
        with torch.no_grad():
            found = self._features(x)
        if not bool(found.isfinite().all()):
            raise ValueError(f"adapting diverged at a learning rate of {learning_rate:g}: give a lower one")

    def _features(self, x: Tensor) -> Tensor:
        return normalize(features(self.network, x, layer=self._encoder.layer, pool=self._encoder.pool), dim=-1)

    def _batches(self) -> Iterator[Tensor]:
        """The pictures in a new order, as the network reads them, a bounded number in memory."""
        order = self._random_state.permutation(len(self._images))
        decoded = map_ahead(self._loaded.prepare, (self._images[place] for place in order), ahead=2 * _BATCH)
        while pictures := [_good(picture) for picture in islice(decoded, _BATCH)]:
            pixels = torch.from_numpy(np.stack(pictures)).to(self._loaded.device)
            yield normalised(pixels, self._loaded.mean, self._loaded.std)


class _Moments:
    """Sets a norm's statistics to the moments of all it has been given, before it uses them."""

    def __init__(self, norm: _BatchNorm, prior: float) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self._mean, self._var, self._prior = norm.running_mean.clone(), norm.running_var.clone(), prior
        self._sum, self._squares = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        self._seen = 0

    def __call__(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        var, mean = torch.var_mean(x, dim=1, correction=0)
        n = len(inputs[0])
        self._seen += n
        self._sum += n * mean
        self._squares += n * (var + mean.square())
        target = self._sum / self._seen
        share = self._seen / (self._prior + self._seen)
        norm.running_mean = torch.lerp(self._mean, target, share)
        norm.running_var = torch.lerp(self._var, self._squares / self._seen - target.square(), share).clamp_min(0.0)


def _good(picture: NDArray[np.uint8] | ImageError) -> NDArray[np.uint8]:
    if isinstance(picture, ImageError):
        raise picture
    return picture


def _live_norms(network: nn.Module, name: str) -> list[_BatchNorm]:
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    live = [norm for norm in norms if not _folded(norm)]
    if not live:
        why = f"all {len(norms)} batch norms are folded into the weights of" if norms else "there are no batch norms in"
        raise ValueError(
            f"{why} {name}, so nothing can be fitted to the target pictures; adapt its embeddings instead, "
            'DomainAdapter("center") or "whiten", or take an encoder with batch norms, such as pocket'
        )
    return live
