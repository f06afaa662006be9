"""An encoder as a scikit-learn transformer of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from fewshot.encoders.encoder import Encoded, Encoder, all_or_raise

if TYPE_CHECKING:
    from typing_extensions import Self


class ImageTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of encoders: ``dim``, ``fingerprint`` and ``encode_valid`` are the subclass's, the rest follows.

    As a transformer it takes a sequence of images, a column of a data frame, or a data frame of one column. It needs no
    ``fit``; ``set_output`` and ``get_feature_names_out`` are scikit-learn's, with the class's name and a number as the
    name of each dimension.
    """

    def encode(self, images: Iterable[Any]) -> NDArray[np.float32]:
        """Embed n images.

        Parameters
        ----------
        images : iterable of paths, bytes, file objects, PIL images or arrays
            See ``fewshot.open_image``.

        Returns
        -------
        ndarray of shape (n, d), float32
            Not normalised.

        Raises
        ------
        ExampleError : naming the first image that cannot be read; ``encode_valid`` goes on instead.
        """
        return all_or_raise(self.encode_valid(images))

    def encode_valid(self, images: Iterable[Any]) -> Encoded:
        """Embed the images that can be read, and list the others."""
        raise NotImplementedError

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Do nothing: the encoder is frozen."""
        return self

    def transform(self, X: Iterable[Any]) -> NDArray[np.float32]:
        """Embed images, as ``encode``."""
        return self.encode(X)

    @property
    def _n_features_out(self) -> int:
        return cast(Encoder, self).dim

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags
