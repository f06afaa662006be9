"""A classifier of pictures that adapts its encoder to the classes it is shown."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.calibration import shipped_calibration
from fewshot.classifiers import FewShotClassifier
from fewshot.encoders import TimmEncoder, check_image_batch, encode_flips, load_encoder, sum_of_directions
from fewshot.finetuning.choice import Choice, hold_out, untouched
from fewshot.finetuning.frozen import HEADS, Answer, answer, classifier_of
from fewshot.finetuning.parts import check_trainable
from fewshot.finetuning.saving import save_folder
from fewshot.finetuning.session import Settings, Task, Tuned, tune
from fewshot.finetuning.views import decode
from fewshot.finetuning.walk import LOSSES, SCHEDULES
from fewshot.media import ImageSource
from fewshot.validation import check_choice, check_count, check_labels, label_array, sorted_labels

if TYPE_CHECKING:
    from typing_extensions import Self

_MOST_SEED = 2**32 - 1


class FineTuneClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify pictures after gradient steps that fit the encoder itself to the support pictures, where these help.

    Each step shows altered views of the support to the network; batch norms keep their statistics. Steps and learning
    rate are chosen on what is held out of the support, and the untouched encoder is kept where none is better by more
    than chance. The frozen part of the network is computed once for each view.

    An adapted encoder's vectors are read by prototypes, means of unit vectors. An untouched one's are read by logistic
    regression, and joined with those of mirror images where these stay with their classes, unless what is held out
    speaks against either by more than chance.

    Parameters
    ----------
    encoder : TimmEncoder or str, default "pocket"
        Never changed. It reads the network's own embedding: one with ``layer`` is refused, as blocks after it would
        not train.
    trainable : str, default "last-2"
        "head": the encoder stays untouched; "last" or "last-N": the last blocks as timm groups
        them; "all"; "norms": scale and shift of every norm; "lora": low-rank adapters of every linear layer and
        ungrouped convolution, merged afterwards.
    loss : {"cross-entropy", "prototypical"}
        "cross-entropy" (default): of a cosine head that starts at the prototypes and is dropped afterwards.
        "prototypical": of each view against the class means of the support as it is.
    schedule : {"together", "progressive"}
        "progressive": one more block joins every 5 steps, from the last backwards, each learning 2.6 times slower than
        the block after it.
    steps : int, optional
        Chosen among 10, 20 and 40 by default, or none. With "head" there are none to give.
    learning_rate : float, optional
        Chosen among 3e-4 and 2e-3 by default. With ``steps`` given too, nothing is held out, and the encoder is tuned.
    views : int, default 8
        Of each picture; fewer where ``memory`` forbids.
    flip : bool, default False
        Whether views may be mirrored: a mirrored character is another one.
    head : {"logistic", "prototypes"}, optional
        What reads the vectors; by default chosen where the encoder stays untouched, and prototypes where it is adapted.
    mirror : bool, optional
        Whether to look at each picture twice, as it is and at the mirror image of its middle, and add both directions;
        answers then take twice the time. By default chosen where the encoder stays untouched, and not done where it is
        adapted.
    rank : int, default 4
        Of "lora".
    memory : float, default 1.0
        GiB that maps of views and graphs of gradients may take together; the pictures, as the network reads them,
        must fit into as much.
    random_state : int, default 0
        Of views, folds and adapters; it repeats a run on the same number of threads.

    Attributes
    ----------
    classes_ : ndarray of shape (c,)
    encoder_ : TimmEncoder
        The adapted encoder, or the given one where ``choice_.steps`` is 0.
    choice_ : Choice

    Notes
    -----
    Tuning is for pictures unlike those that the encoder has learned from: an ImageNet encoder gained 13 points of 100
    with one handwritten character a class, and 19 with five. An encoder at home is left as it is, and gains by how its
    vectors are read: one to two points (``benchmarks/README.md``).

    An interrupted ``fit`` leaves the classifier as it was before it.

    References
    ----------
    Hu et al. 2022, arXiv:2204.07305, section 3.3 (P>M>F: views of the support as queries, prototypes by cosine times
    10); it departs in that cross-entropy is the default, in that not the whole network trains, and in how steps and
    rate are chosen. Wang et al. 2019, arXiv:1911.04623, section 2.2 (means of unit vectors). Howard & Ruder 2018,
    arXiv:1801.06146, sections 3.2 and 3.3 (slower early blocks, gradual unfreezing). Tian et al. 2020,
    arXiv:2003.11539, section 3.2 (logistic regression on a frozen encoder's directions).
    """

    def __init__(
        self,
        encoder: TimmEncoder | str = "pocket",
        *,
        trainable: str = "last-2",
        loss: str = "cross-entropy",
        schedule: str = "together",
        steps: int | None = None,
        learning_rate: float | None = None,
        views: int = 8,
        flip: bool = False,
        head: str | None = None,
        mirror: bool | None = None,
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
        self.mirror = mirror
        self.rank = rank
        self.memory = memory
        self.random_state = random_state

    def fit(self, X: Iterable[ImageSource], y: Any) -> Self:
        """Learn the classes of some pictures.

        Parameters
        ----------
        X : sequence of s pictures
            As ``fewshot.open_image`` takes them.
        y : sequence of s labels
            Any hashable values; one picture of a class is enough.

        Raises
        ------
        ImageError : naming the first picture that cannot be read.
        ValueError : for fewer than two classes, wrong labels or parameters, or an encoder that cannot be tuned.
        """
        begun = time.monotonic()
        self._check()
        images = list(check_image_batch(X))
        labels = check_labels(y, len(images))
        classes = label_array(sorted_labels(labels.tolist()))
        if len(classes) < 2:
            raise ValueError(f"fine-tuning tells classes apart, but there is only {classes.tolist()}: give two")
        code = {label: number for number, label in enumerate(classes.tolist())}
        codes = torch.tensor([code[label] for label in labels.tolist()])
        encoder = usable(self.encoder)
        tuned, frozen = self._tuned(encoder, images, codes)
        if tuned.network is None:
            assert frozen is not None  # where both steps and rate are given, they are taken
            adapted, head, mirror, found = encoder, frozen.head, frozen.mirror, frozen.support.numpy()
        else:
            adapted, head, mirror = encoder.with_network(tuned.network), self.head or "prototypes", bool(self.mirror)
            found = None
        vectors = sum_of_directions(encode_flips(adapted, images, tta=mirror)) if found is None else found
        classifier = classifier_of(head).fit(vectors, labels)
        self.classes_, self.encoder_ = classifier.classes_, adapted
        self._classifier = classifier
        self._calibration = shipped_calibration(encoder.fingerprint)  # the adapted encoder's own is in no table
        self.choice_ = Choice(
            **vars(tuned.verdict),
            head=head,
            mirror=mirror,
            parameters=tuned.parameters,
            seconds=time.monotonic() - begun,
        )
        return self

    def scores(self, X: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Closeness of each picture to each class; higher is closer.

        Parameters
        ----------
        X : sequence of q pictures

        Returns
        -------
        ndarray of shape (q, c), columns ordered as ``classes_``
            Cosines in [-1, 1] where ``choice_.head`` is "prototypes"; logits where it is "logistic".

        Raises
        ------
        NotFittedError : before the first ``fit``.
        ImageError : naming the first picture that cannot be read.
        """
        classifier, vectors = self._read(X)
        return classifier.scores(vectors)

    def predict(self, X: Iterable[ImageSource]) -> NDArray[Any]:
        """Return the label of the closest class of each of q pictures; nothing is changed by asking."""
        classifier, vectors = self._read(X)
        return classifier.predict(vectors)

    def predict_proba(self, X: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Return class probabilities of shape (q, c); as the support was tuned on, they may be too sure."""
        classifier, vectors = self._read(X)
        return classifier.predict_proba(vectors, self._calibration)

    def save_encoder(self, folder: str | os.PathLike[str]) -> None:
        """Write the adapted encoder as timm does for the Hub: config.json, model.safetensors, README.md.

        Head and mirror images stay with the classifier: the encoder gives the vectors of pictures as they are.
        ``TimmEncoder("local-dir:" + folder)`` loads it, with the same fingerprint, as long as the encoder has no
        ``pool``: one that has must be loaded with it.

        Parameters
        ----------
        folder : path
            Made where it does not exist; what it held under these names is replaced.

        Raises
        ------
        NotFittedError : before the first ``fit``.
        """
        check_is_fitted(self, "classes_")
        save_folder(self.encoder_, folder, self.choice_, self._settings())

    def _read(self, X: Iterable[ImageSource]) -> tuple[FewShotClassifier, NDArray[np.float32]]:
        check_is_fitted(self, "classes_")
        return self._classifier, sum_of_directions(encode_flips(self.encoder_, X, tta=self.choice_.mirror))

    def _tuned(self, encoder: TimmEncoder, images: Sequence[ImageSource], codes: Tensor) -> tuple[Tuned, Answer | None]:
        """What tuning leaves, and how the untouched encoder answers; None where that was not asked."""
        parts = hold_out(codes, int(codes.max()) + 1, self.random_state)
        settings = self._settings()
        if self.trainable == "head":
            frozen = self._frozen(encoder, images, codes, parts)
            return Tuned(None, untouched(frozen, codes, parts), head_parameters(codes, encoder)), frozen
        pixels = decode(encoder.loaded.prepare, images, len(images), self.memory)
        chosen = self._frozen(encoder, images, codes, parts) if settings.judged else None
        return tune(encoder, Task(pixels, codes, chosen), settings), chosen

    def _frozen(
        self, encoder: TimmEncoder, images: Sequence[ImageSource], codes: Tensor, parts: list[tuple[Tensor, Tensor]]
    ) -> Answer:
        looks = torch.from_numpy(encode_flips(encoder, images, tta=self.mirror is not False))
        return answer(looks, codes, int(codes.max()) + 1, parts, head=self.head, mirror=self.mirror)

    def _check(self) -> None:
        check_trainable(self.trainable)
        check_choice("loss", self.loss, LOSSES)
        check_choice("schedule", self.schedule, SCHEDULES)
        if not isinstance(self.flip, (bool, np.bool_)):
            raise ValueError(f"flip must be True or False, not {self.flip!r}")
        if self.head is not None:
            check_choice("head", self.head, HEADS)
        if self.mirror is not None and not isinstance(self.mirror, (bool, np.bool_)):
            raise ValueError(f"mirror must be True, False or None (choose), not {self.mirror!r}")
        if self.trainable == "head":
            for name, default in (("steps", None), ("learning_rate", None), ("loss", "cross-entropy")):
                if (value := getattr(self, name)) != default:
                    raise ValueError(
                        f"trainable='head' takes no gradient steps, but {name}={value!r}: leave it out, or train "
                        "blocks, as with trainable='last-2'"
                    )
        self._check_numbers()

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

    def _settings(self) -> Settings:
        return Settings(
            trainable=self.trainable,
            loss=self.loss,
            schedule=self.schedule,
            steps=self.steps,
            learning_rate=self.learning_rate,
            views=self.views,
            flip=self.flip,
            head=self.head,
            mirror=self.mirror,
            rank=self.rank,
            memory=self.memory,
            seed=self.random_state,
        )


def head_parameters(codes: Tensor, encoder: TimmEncoder) -> int:
    """How many numbers train where only what reads the vectors does."""
    return (int(codes.max()) + 1) * (encoder.dim + 1)


def usable(encoder: TimmEncoder | str) -> TimmEncoder:
    """Return what can be tuned of what is given, or say why it cannot be."""
    if isinstance(encoder, str):
        encoder = load_encoder(encoder)
    if not isinstance(encoder, TimmEncoder):
        raise TypeError(
            f"only a TimmEncoder, or the name of one, can be tuned, not {type(encoder).__name__}; of a cache, give its "
            "encoder"
        )
    if encoder.layer is not None:
        raise ValueError(
            f"the encoder takes its features after layer {encoder.layer!r}, but fine-tuning reads the network's own "
            f"embedding: give TimmEncoder({encoder.name!r}) without layer"
        )
    return encoder
