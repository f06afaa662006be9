"""A classifier of images or texts that fine-tunes its encoder on the support set."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from fewshot.calibration import shipped_calibration
from fewshot.classifiers import FewShotClassifier, LogisticRegressionClassifier, WhitenedPrototypeClassifier
from fewshot.encoders import (
    SentenceTransformerEncoder,
    TimmEncoder,
    check_image_batch,
    encode_flips,
    load_encoder,
    modality_of,
)
from fewshot.finetuning.frozen_baseline import FrozenBaseline, combined, fit_baseline
from fewshot.finetuning.image_views import read_pixels
from fewshot.finetuning.saving import save_folder
from fewshot.finetuning.search import Choice, hold_out, untouched
from fewshot.finetuning.sentence_tuning import tune_sentence_encoder
from fewshot.finetuning.top_trainer import LOSSES
from fewshot.finetuning.trainable_parts import SCHEDULES, check_trainable
from fewshot.finetuning.tuned_network import Settings, TunedEncoder, TunedNetwork, tune_network
from fewshot.media import ImageSource, medium_of
from fewshot.validation import check_choice, check_count, check_labels, label_array, sorted_labels

if TYPE_CHECKING:
    from typing_extensions import Self

_MOST_SEED = 2**32 - 1


class FineTuneClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify images, or texts, after fine-tuning the encoder on the support, where that helps.

    Each step trains on augmented views of the support; batch norms keep their statistics. Steps and learning rate are
    chosen on held-out parts of the support, and the encoder stays untouched where no candidate is better by more than
    chance. The frozen part of the network is computed once for each view.

    The head, by default whitened prototypes, and of texts logistic regression, answers on either encoder, and judges
    between them; on an untouched one with flip test-time augmentation where flipped images stay closest to their own
    class, unless what is held out speaks against it by more than chance.

    Texts are trained on as they are, by a contrastive loss between them (SetFit); ``trainable`` is then "last-N", "all"
    or "head", the rate is 3e-5 and steps are chosen among 8 and 16, or none, and what is said of views, losses,
    schedules, adapters, memory and flips is of images.

    Parameters
    ----------
    encoder : TimmEncoder, SentenceTransformerEncoder or str, default "pocket"
        Never changed. Its own embedding is used: an encoder with ``layer`` is refused, as blocks after it would not
        train.
    trainable : str, optional
        "head": the encoder stays untouched; "last" or "last-N": the last blocks as timm groups them, by default two,
        and of texts four; "all"; "norms": scale and shift of every norm; "lora": low-rank adapters of every linear
        layer and ungrouped convolution, merged afterwards.
    loss : {"cross-entropy", "prototypical"}
        "cross-entropy" (default): of a cosine head that starts at the prototypes and is dropped afterwards.
        "prototypical": of each view against the class means of the support as it is.
    schedule : {"together", "progressive"}
        "together" (default): all blocks train from the start. "progressive": gradual unfreezing, one more block every 5
        steps, from the last backwards, each with a learning rate 2.6 times lower than the block after it.
    steps : int, optional
        Of gradient descent; chosen among 10, 20 and 40 by default, or none. Refused with "head".
    learning_rate : float, optional
        Chosen among 3e-4 and 2e-3 by default. With ``steps`` given too, nothing is held out, and the encoder is
        fine-tuned in any case. Refused with "head".
    views : int, default 8
        Augmented views of each image; fewer where ``memory`` forbids.
    flip : bool, default False
        Whether views may be flipped horizontally: a flipped character is another one.
    head : FewShotClassifier, optional
        The classifier on the embeddings, not changed; by default ``WhitenedPrototypeClassifier()``, and of texts
        ``LogisticRegressionClassifier(C=10.0)``, as of a registry.
    tta : bool, optional
        Flip test-time augmentation: whether to add the directions of the image and of its flipped centre; predictions
        then take twice the time. By default chosen where the encoder stays untouched, else False.
    rank : int, default 4
        Of "lora".
    memory : float, default 1.0
        GiB that feature maps of views and graphs of gradients may take together; the images, as the network reads them,
        must fit into as much.
    random_state : int, default 0
        Of views, folds and adapters; it repeats a run on the same number of threads.

    Attributes
    ----------
    classes_ : ndarray of shape (c,)
    encoder_ : TimmEncoder or SentenceTransformerEncoder
        The fine-tuned encoder, or the given one where ``choice_.steps`` is 0.
    choice_ : Choice

    Notes
    -----
    Fine-tuning gains on images unlike those that the encoder was trained on; an in-domain encoder mostly stays as it
    is (measured in ``benchmarks/README.md``).

    An interrupted ``fit`` leaves the classifier as it was before it.

    References
    ----------
    Hu et al. 2022, arXiv:2204.07305, section 3.3 (P>M>F: views of the support as queries, prototypes by cosine times
    10); departs from it in that cross-entropy is the default, in what trains, and in how steps and learning rate are
    chosen. Howard & Ruder 2018, arXiv:1801.06146, sections 3.2 and 3.3 (discriminative rates, gradual unfreezing).
    Tunstall et al. 2022, arXiv:2209.11055 (SetFit); Khosla et al. 2020, arXiv:2004.11362, eq. 2 (its loss here).

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import FineTuneClassifier
    >>> dark, bright = (np.full((64, 64, 3), level, np.uint8) for level in (30, 220))
    >>> classifier = FineTuneClassifier("pocket", steps=2, learning_rate=1e-4).fit([dark, bright], ["night", "day"])
    >>> classifier.predict([dark + 10, bright - 10]).tolist()
    ['night', 'day']
    """

    def __init__(
        self,
        encoder: TimmEncoder | SentenceTransformerEncoder | str = "pocket",
        *,
        trainable: str | None = None,
        loss: str = "cross-entropy",
        schedule: str = "together",
        steps: int | None = None,
        learning_rate: float | None = None,
        views: int = 8,
        flip: bool = False,
        head: FewShotClassifier | None = None,
        tta: bool | None = None,
        rank: int = 4,
        memory: float = 1.0,
        random_state: int = 0,
    ) -> None:
        self.encoder = encoder
        self.trainable = trainable
        self.loss = loss
        self.schedule = schedule
        self.steps = steps
        self.learning_rate = learning_rate
        self.views = views
        self.flip = flip
        self.head = head
        self.tta = tta
        self.rank = rank
        self.memory = memory
        self.random_state = random_state

    def fit(self, X: Iterable[ImageSource], y: Any) -> Self:
        """Learn the classes of a support set.

        Parameters
        ----------
        X : sequence of s images
            As ``fewshot.open_image`` takes them.
        y : sequence of s labels
            Any hashable values; one image of a class is enough.

        Raises
        ------
        ImageError : naming the first image that cannot be read.
        ValueError : for fewer than two classes, wrong labels or parameters, or an encoder that cannot be fine-tuned.
        """
        begun = time.monotonic()
        self.check_parameters()
        encoder = usable_encoder(self.encoder)
        images: list[Any] = list(check_image_batch(X, modality_of(encoder)))
        labels = check_labels(y, len(images))
        classes = label_array(sorted_labels(labels.tolist()))
        if len(classes) < 2:
            raise ValueError(f"fine-tuning tells classes apart, but there is only {classes.tolist()}: give two")
        code = {label: number for number, label in enumerate(classes.tolist())}
        codes = torch.tensor([code[label] for label in labels.tolist()])
        of_texts = isinstance(encoder, SentenceTransformerEncoder)
        default = LogisticRegressionClassifier(C=10.0) if of_texts else WhitenedPrototypeClassifier()
        head = default if self.head is None else clone(self.head)
        given = {name: value for name, value in self.get_params(deep=False).items() if name != "encoder"}
        trainable = "last-2" if self.trainable is None and not of_texts else self.trainable
        settings = Settings(**{**given, "head": head, "trainable": trainable})
        splits = hold_out(codes, len(classes), self.random_state)
        tune = tune_sentence_encoder if of_texts else _tune_image_encoder
        tuned = tune(encoder, images, codes, splits, settings)
        classifier = head.fit(tuned.embeddings, labels)
        self.classes_, self.encoder_, self._classifier = classifier.classes_, tuned.encoder, classifier
        self._support = tuned.embeddings, labels.tolist()
        self._calibration = shipped_calibration(encoder.fingerprint)  # no table holds a fine-tuned encoder
        self.choice_ = Choice(
            **vars(tuned.candidate),
            tta=tuned.tta,
            parameters=tuned.parameters,
            seconds=time.monotonic() - begun,
        )
        return self

    def scores(self, X: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Score each image for each class; higher is closer.

        Parameters
        ----------
        X : sequence of q images

        Returns
        -------
        ndarray of shape (q, c), columns ordered as ``classes_``
            Those of the head; by default cosines in [-1, 1].

        Raises
        ------
        NotFittedError : before the first ``fit``.
        ImageError : naming the first image that cannot be read.
        """
        classifier, embeddings = self._embed(X)
        return classifier.scores(embeddings)

    def predict(self, X: Iterable[ImageSource]) -> NDArray[Any]:
        """Predict the labels of q images."""
        classifier, embeddings = self._embed(X)
        return classifier.predict(embeddings)

    def predict_proba(self, X: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Return class probabilities of shape (q, c); after fine-tuning on the support they may be overconfident."""
        classifier, embeddings = self._embed(X)
        return classifier.predict_proba(embeddings, self._calibration)

    def save_encoder(self, folder: str | os.PathLike[str]) -> None:
        """Write the fine-tuned encoder as timm does for the Hub: config.json, model.safetensors, README.md.

        Head and test-time augmentation are not part of it. ``TimmEncoder("local-dir:" + folder)`` loads it, with the
        same fingerprint; an encoder with ``pool`` must be loaded with the same.

        Parameters
        ----------
        folder : path
            Made where it does not exist; files of these names in it are replaced.

        Raises
        ------
        NotFittedError : before the first ``fit``.
        """
        check_is_fitted(self, "classes_")
        settings = {name: value for name, value in self.get_params(deep=False).items() if name != "encoder"}
        save_folder(self.encoder_, folder, self.choice_, settings)

    def export_onnx(self, path: str | os.PathLike[str], *, opset: int | None = None, int8: bool = False) -> int:
        """Write encoder and head as a bundle for ``fewshot.runtime.Recognizer``, without torch; returns its bytes.

        Labels become text; there is no threshold, so that each image gets a label.

        Parameters
        ----------
        path : path
        opset, int8
            As of ``fewshot.runtime.export_bundle``.

        Raises
        ------
        NotFittedError : before the first ``fit``.
        MissingExtra : where onnx, onnxscript or onnxruntime is not installed.
        ValueError : for texts, or with flip test-time augmentation; for an encoder, or a head, that cannot be exported.
        """
        from fewshot.runtime import export_classifier

        check_is_fitted(self, "classes_")
        if self.choice_.tta:
            raise ValueError(
                "this classifier also embeds each image flipped, as a bundle does not: fit it with tta=False"
            )
        vectors, y = self._support
        return export_classifier(self._classifier, self.encoder_, vectors, y, path, opset=opset, int8=int8)

    def check_parameters(self) -> None:
        """Raise ValueError for wrong parameters, before anything is read or computed."""
        if self.trainable is not None:
            check_trainable(self.trainable)
        check_choice("loss", self.loss, LOSSES)
        check_choice("schedule", self.schedule, tuple(SCHEDULES))
        if not isinstance(self.flip, (bool, np.bool_)):
            raise ValueError(f"flip must be True or False, not {self.flip!r}")
        if self.head is not None and not isinstance(self.head, FewShotClassifier):
            raise ValueError(f"head must be one of fewshot's classifiers, as PrototypeClassifier(), not {self.head!r}")
        if self.tta is not None and not isinstance(self.tta, (bool, np.bool_)):
            raise ValueError(f"tta must be True, False or None (choose), not {self.tta!r}")
        if self.trainable == "head":
            for name, default in (("steps", None), ("learning_rate", None), ("loss", "cross-entropy")):
                if (value := getattr(self, name)) != default:
                    raise ValueError(
                        f"trainable='head' takes no gradient steps, but {name}={value!r}: leave it out, or train "
                        "blocks, as with trainable='last-2'"
                    )
        self._check_numbers()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags

    def _embed(self, X: Iterable[Any]) -> tuple[FewShotClassifier, NDArray[np.float32]]:
        check_is_fitted(self, "classes_")
        if isinstance(self.encoder_, SentenceTransformerEncoder):
            return self._classifier, self.encoder_.encode(X)
        return self._classifier, _combined(encode_flips(self.encoder_, X, tta=self.choice_.tta))

    def _check_numbers(self) -> None:
        check_count("views", self.views)
        check_count("rank", self.rank)
        if check_count("random_state", self.random_state, minimum=0) > _MOST_SEED:
            raise ValueError(f"random_state must be at most {_MOST_SEED}, as numpy's, not {self.random_state}")
        if self.steps is not None:
            check_count("steps", self.steps)
        for name, value in (("learning_rate", self.learning_rate), ("memory", self.memory)):
            if value is not None and not (isinstance(value, (int, float, np.number)) and 0 < value < float("inf")):
                raise ValueError(f"{name} must be a finite number above 0, not {value!r}")


def _combined(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = combined(torch.from_numpy(vectors)).numpy()
    return found


def _tune_image_encoder(
    encoder: TimmEncoder,
    images: list[ImageSource],
    codes: torch.Tensor,
    splits: list[tuple[torch.Tensor, torch.Tensor]],
    settings: Settings,
) -> TunedEncoder:
    head, tta = settings.head, settings.tta
    baseline: FrozenBaseline | None = None
    if settings.trainable == "head":
        vectors = encode_flips(encoder, images, tta=tta is not False)
        baseline = fit_baseline(torch.from_numpy(vectors), codes, splits, head, tta=tta)
        tuned = TunedNetwork(None, untouched(baseline, codes, splits), parameters=0)
    else:
        pixels = read_pixels(encoder.loaded.prepare, images, len(images), settings.memory)
        if settings.given is None:
            vectors = encode_flips(encoder, pixels, tta=tta is not False, prepared=True)
            baseline = fit_baseline(torch.from_numpy(vectors), codes, splits, head, tta=tta)
        tuned = tune_network(encoder, pixels, codes, baseline, settings)
    if tuned.network is None:
        assert baseline is not None  # given steps and learning rate are always taken
        return TunedEncoder(encoder, baseline.support.numpy(), baseline.tta, tuned.candidate, tuned.parameters)
    fitted = encoder.with_network(tuned.network)
    embeddings = _combined(encode_flips(fitted, pixels, tta=bool(tta), prepared=True))
    return TunedEncoder(fitted, embeddings, bool(tta), tuned.candidate, tuned.parameters)


def usable_encoder(encoder: TimmEncoder | SentenceTransformerEncoder | str) -> Any:
    """Return the encoder to fine-tune.

    Raises
    ------
    TypeError, ValueError : saying why it cannot be fine-tuned.
    """
    if isinstance(encoder, str):
        encoder = load_encoder(encoder)
    if isinstance(encoder, SentenceTransformerEncoder):
        if encoder.modality != "text":
            noun = medium_of(encoder.modality).noun
            raise ValueError(
                f"{encoder.name!r} embeds {noun}s: of sentence-transformers only models of texts are tuned"
            )
        return encoder
    if not isinstance(encoder, TimmEncoder):
        raise TypeError(
            "only a TimmEncoder or a SentenceTransformerEncoder, or the name of one, can be fine-tuned, not "
            f"{type(encoder).__name__}; of a cache, give its encoder"
        )
    if encoder.layers is not None or encoder.tta:
        raise ValueError(
            f"the encoder has layers={encoder.layers!r} and tta={encoder.tta}, but fine-tuning reads the network's own "
            f"embedding, and has a tta of its own: give TimmEncoder({encoder.name!r}) without"
        )
    if encoder.layer is not None:
        raise ValueError(
            f"the encoder takes its features after layer {encoder.layer!r}, but fine-tuning reads the network's own "
            f"embedding: give TimmEncoder({encoder.name!r}) without layer"
        )
    return encoder
