"""Any model of sentence-transformers as a frozen encoder of texts."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewshot.encoders.batches import readable
from fewshot.encoders.device import Precision, best_device, usable_device
from fewshot.encoders.encoder import Encoded, check_image_batch, counted, gathered
from fewshot.encoders.image_transformer import ImageTransformer
from fewshot.encoders.loaded_sentence_transformer import LoadedSentenceTransformer, load_sentence_transformer
from fewshot.encoders.transformers_hub import from_transformers
from fewshot.errors import EncoderNotFound
from fewshot.media import MODALITIES, Modality, map_ahead, medium_of
from fewshot.progress import Progress
from fewshot.validation import check_choice, check_count, check_extra

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from typing_extensions import Self

# Texts that are sorted by length, and images or sounds that are open at a time.
_CHUNK = {"text": 2048, "image": 128, "audio": 16}
_ORDER: tuple[Modality, ...] = ("text", "image", "audio")


class SentenceTransformerEncoder(ImageTransformer):
    """A frozen model of sentence-transformers: texts in, embeddings out; also a scikit-learn transformer.

    The model is loaded at first use. Texts are computed in batches of similar length; one embeds the same alone, in any
    batch, after any other call (up to the rounding of ``precision``). Models that embed images or sounds work too.

    Parameters
    ----------
    name : str
        On the Hub, or the path of a folder.
    prompt : str, optional
        Put before each text, as in ``SentenceTransformer.encode``; by default the model's own default prompt, if any.
    normalize : bool, default False
        Whether vectors are scaled to length 1, as by ``normalize_embeddings`` there.
    embeds : {"text", "image", "audio"}, optional
        What to embed with a model of several modalities; by default the first of these that the model has.
    device : str, optional
        By default CUDA, then MPS, then CPU.
    precision : {"float32", "bfloat16"}, optional
        By default bfloat16 for texts where the hardware computes in it and the vectors of some texts keep a cosine of
        0.99 to those of float32, else float32.
    batch_size : int, optional
        By default 32 on a CPU, 256 on a GPU.

    Raises
    ------
    MissingExtra : at first use, without sentence-transformers.
    EncoderNotFound : at first use, if there is no such model or it cannot be had.

    Warns
    -----
    UserWarning : once, where a text reaches the model's limit: what is beyond is not read.

    References
    ----------
    Reimers & Gurevych 2019, arXiv:1908.10084.

    Examples
    --------
    >>> from fewshot import SentenceTransformerEncoder
    >>> encoder = SentenceTransformerEncoder("all-MiniLM-L6-v2")
    >>> encoder.encode(["Where is my card?", "I lost my card."]).shape  # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self,
        name: str,
        *,
        prompt: str | None = None,
        normalize: bool = False,
        embeds: Modality | None = None,
        device: str | None = None,
        precision: Precision | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.name = name
        self.prompt = prompt
        self.normalize = normalize
        self.embeds = embeds
        self.device = device
        self.precision = precision
        self.batch_size = batch_size

    @property
    def loaded(self) -> LoadedSentenceTransformer:
        """The model as it computes, loaded at first use and anew when a parameter has changed.

        Raises
        ------
        MissingExtra, EncoderNotFound
        """
        asked = self._asked()
        if "_model" not in self.__dict__ or self._model[0] != asked:
            self._model: tuple[tuple[Any, ...], LoadedSentenceTransformer] = asked, self._load()
        return self._model[1]

    @property
    def modality(self) -> Modality:
        """What it embeds."""
        return self.loaded.modality

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return self.loaded.dim

    @property
    def fingerprint(self) -> str:
        """Made of weights, vocabulary, length limit, pooling, prompt and normalisation."""
        return self.loaded.fingerprint

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the same encoder again: ``load_encoder(**spec)``; empty for a model that was given."""
        if self._given() is not None:
            return {}
        name = os.path.abspath(self.name) if os.path.isdir(self.name) else self.name
        settings = {"prompt": self.prompt, "normalize": self.normalize, "embeds": self.embeds}
        return {"name": f"st:{name}", **{key: value for key, value in settings.items() if value not in (None, False)}}

    @property
    def resolved_precision(self) -> Precision:
        """The precision of the computation, given or chosen."""
        return self.loaded.precision

    def encode_valid(self, images: Iterable[Any]) -> Encoded:
        """Embed the texts (or images, or sounds) that can be read, and list the others."""
        loaded = self.loaded
        source, total = counted(check_image_batch(images, loaded.modality))
        size = None if self.batch_size is None else check_count("batch_size", self.batch_size)
        n_long: list[int] = []

        def chunks() -> Iterator[tuple[list[Any], NDArray[np.float32]]]:
            while chunk := list(islice(source, _CHUNK[loaded.modality])):
                opened = list(map_ahead(medium_of(loaded.modality).open, chunk))
                vectors, long = loaded.embed(readable(opened), size)
                n_long.append(long)
                yield opened, vectors

        with Progress(total, "encode", unit=medium_of(loaded.modality).noun) as bar:
            encoded = gathered(chunks(), loaded.dim, bar.advance)
        self._warn_of_length(sum(n_long), len(encoded.vectors))
        return encoded

    def exact_model(self) -> SentenceTransformer:
        """Return a copy of the model as it was before conversion: float32, CPU, eval mode."""
        given = self._given()
        return copy.deepcopy(given[0]) if given else self._fetched()

    def with_model(self, model: SentenceTransformer) -> Self:
        """Return an encoder of the same settings that computes with another model of this one's kind, copied.

        Its fingerprint is made of the new weights, and ``spec`` is empty, as no name stands for them.
        """
        twin = type(self)(**self.get_params(deep=False))
        twin._model_given = copy.deepcopy(model).cpu().float().eval().requires_grad_(False), self.name
        return twin

    def __sklearn_clone__(self) -> SentenceTransformerEncoder:
        twin = type(self)(**self.get_params(deep=False))
        for name in ("_model", "_model_given", "_sklearn_output_config"):  # frozen, so they can be shared
            if name in self.__dict__:
                twin.__dict__[name] = copy.copy(self.__dict__[name])
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_model"}

    def _given(self) -> tuple[SentenceTransformer, str] | None:
        """What ``with_model`` was given, unless another name was set since."""
        given: tuple[SentenceTransformer, str] | None = self.__dict__.get("_model_given")
        return given if given and given[1] == self.name else None

    def _asked(self) -> tuple[Any, ...]:
        return self.name, self.prompt, self.normalize, self.embeds, self.device, self.precision

    def _fetched(self) -> SentenceTransformer:
        check_extra("text", "st: models need", "sentence_transformers")
        from sentence_transformers import SentenceTransformer

        def load(place: str, offline: bool) -> SentenceTransformer:
            return SentenceTransformer(place, device="cpu", local_files_only=offline, trust_remote_code=False)

        model = from_transformers(self.name, load)
        return model.float().eval().requires_grad_(False)

    def _load(self) -> LoadedSentenceTransformer:
        if self.embeds is not None:
            check_choice("embeds", self.embeds, MODALITIES)
        if self.precision is not None:
            check_choice("precision", self.precision, ("float32", "bfloat16"))
        device = usable_device(self.device) if self.device is not None else best_device()
        model = self.exact_model()
        modality = self._modality_of(model)
        prompt = self.prompt if self.prompt is not None else model.prompts.get(model.default_prompt_name or "")
        return load_sentence_transformer(
            model, modality, device, self.precision, prompt=prompt, normalize=bool(self.normalize)
        )

    def _modality_of(self, model: SentenceTransformer) -> Modality:
        able = [str(one) for one in getattr(model, "modalities", ("text",)) if isinstance(one, str)]
        found = [modality for modality in _ORDER if modality in able]
        if self.embeds is not None and self.embeds not in found:
            raise ValueError(f"the model {self.name!r} embeds {' and '.join(able)}, not {self.embeds}")
        if not found:
            raise EncoderNotFound(
                f"the model {self.name!r} embeds {' and '.join(able)}; text, image or audio is needed"
            )
        return self.embeds or found[0]

    def _warn_of_length(self, n_long: int, n: int) -> None:
        if n_long and "_warned" not in self.__dict__:
            self._warned = True
            warnings.warn(
                f"{n_long} of {n} texts reach the limit of {self.name!r}, {self.loaded.limit} tokens: what is beyond "
                "is not read (said once)",
                stacklevel=4,
            )
