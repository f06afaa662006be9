"""Contrastive fine-tuning of a sentence encoder on the pairs of its support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.encoders import SentenceTransformerEncoder, autocast
from fewshot.finetuning.frozen_baseline import FrozenBaseline, fit_baseline, head_scores
from fewshot.finetuning.frozen_blocks import FrozenBlocks, top_blocks
from fewshot.finetuning.search import Candidate, search, untouched
from fewshot.finetuning.top_trainer import Fold
from fewshot.finetuning.tuned_network import TunedEncoder
from fewshot.media import open_text
from fewshot.progress import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from fewshot.classifiers import FewShotClassifier
    from fewshot.finetuning.tuned_network import Settings

LEARNING_RATE = 3e-5
STOPS = (8, 16)
_FOLDS = 3
_BATCH, _OF_A_CLASS = 64, 2
_TEMPERATURE = 0.05
_WARM_UP_STEPS = 5
_WEIGHT_DECAY = 0.01
_MAX_GRADIENT_NORM = 1.0


def tune_sentence_encoder(
    encoder: SentenceTransformerEncoder,
    examples: Sequence[Any],
    labels: Tensor,
    splits: Sequence[tuple[Tensor, Tensor]],
    settings: Settings,
) -> TunedEncoder:
    """Fine-tune a copy of an encoder's model so that texts of one class come close and others apart.

    The batch's texts are each other's pairs: a supervised contrastive loss over classes and two texts of each, drawn
    anew at every step. Blocks that do not train are computed once for each text.

    Parameters
    ----------
    encoder : SentenceTransformerEncoder
    examples : sequence of s texts
    labels : Tensor of shape (s,), int64
        0 to c - 1.
    splits : sequence of (train, held out)
        On which fine-tuning must beat the untouched encoder; without any, as with one text of each class, that stays.
    settings : Settings

    Raises
    ------
    ValueError : for parts that a model of texts does not have, or a learning rate at which training diverges.

    References
    ----------
    Tunstall et al. 2022, arXiv:2209.11055 (SetFit: contrastive pairs of the support); departs from it in the loss,
    which is of all pairs of a batch at once: Khosla et al. 2020, arXiv:2004.11362, eq. 2.
    """
    texts = [open_text(example) for example in examples]
    splits = few_folds(splits, len(texts))
    before = encoder.encode(texts)
    baseline = fit_baseline(torch.from_numpy(before)[:, None], labels, splits, settings.head, tta=False)
    stays = settings.trainable == "head" or (settings.given is None and not splits)
    if stays:
        return TunedEncoder(encoder, before, False, untouched(baseline, labels, splits), 0)
    model = encoder.exact_model().to(encoder.loaded.device)
    trainer = SentenceTrainer(
        encoder, model, texts, labels, settings.trainable, settings.head, seed=settings.random_state
    )
    candidate = _search_and_fit(trainer, labels, splits, baseline, settings)
    count = sum(parameter.numel() for parameter in trainer.parameters)
    if not candidate.steps:
        return TunedEncoder(encoder, before, False, candidate, count)
    tuned = encoder.with_model(trainer.finished())
    return TunedEncoder(tuned, tuned.encode(texts), False, candidate, count)


def _search_and_fit(
    trainer: SentenceTrainer,
    labels: Tensor,
    splits: Sequence[tuple[Tensor, Tensor]],
    baseline: FrozenBaseline,
    settings: Settings,
) -> Candidate:
    """Search for steps and learning rate, unless both are given, and train on the whole support."""
    rates = (LEARNING_RATE if settings.learning_rate is None else settings.learning_rate,)
    stops = STOPS if settings.steps is None else (settings.steps,)
    folds = [Fold(train, torch.empty(0), (held,), labels[held]) for train, held in splits]
    trainings = 1 if settings.given else len(rates) + len(folds)
    with Progress(stops[-1] * trainings, "fine-tune", unit="step") as bar:
        candidate = settings.given or search(trainer, None, folds, "examples", rates, stops, baseline, bar)
        if candidate.steps:
            everything = torch.arange(len(labels))
            fold = Fold(everything, torch.empty(0), (everything[:1],), labels[:1])
            scores = trainer.fit(None, fold, candidate.learning_rate, (candidate.steps,), bar)
            if candidate.steps not in scores:
                raise ValueError(
                    f"fine-tuning diverged at a learning rate of {candidate.learning_rate:g}: give a lower one, or "
                    "leave it out"
                )
    return candidate


class SentenceTrainer:
    """Trains the last blocks of a model of texts, each time from the same start, and leaves it as the last training.

    ``fit`` is as ``TopTrainer.fit``; a fold's ``held_out`` is the positions of its texts.
    """

    def __init__(
        self,
        encoder: SentenceTransformerEncoder,
        model: SentenceTransformer,
        texts: Sequence[str],
        labels: Tensor,
        trainable: str | None,
        head: FewShotClassifier,
        *,
        seed: int,
    ) -> None:
        self._model, self._loaded, self._texts = model, encoder.loaded, list(texts)
        self._head, self._labels, self._seed = head, labels, seed
        blocks, n_below = top_blocks(model, trainable)
        model.requires_grad_(blocks is None)
        self._below: FrozenBlocks | None = None
        if blocks is not None:
            for block in blocks[n_below:]:
                block.requires_grad_(True)
            if n_below:
                self._below = FrozenBlocks(blocks, n_below)
                with self._below.recording():
                    for some in torch.split(torch.arange(len(texts)), _BATCH):
                        self._computed(some.tolist())
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self.parameters]

    def fit(
        self, support: None, fold: Fold, learning_rate: float, stops: Sequence[int], bar: Progress
    ) -> dict[int, Tensor]:
        """Train from the start, and score what the fold holds out by the head, fitted to what it trains on."""
        with torch.no_grad():
            for parameter, start in zip(self.parameters, self._start, strict=True):
                parameter.copy_(start)
        optimiser = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=_WEIGHT_DECAY)
        generator = torch.Generator().manual_seed(self._seed)
        labels, n_classes = self._labels[fold.train], int(self._labels.max()) + 1
        scores: dict[int, Tensor] = {}
        with torch.random.fork_rng(devices=[]):  # dropout's; the caller's random state stays
            torch.manual_seed(self._seed)
            for step in range(stops[-1] + 1):
                if step in stops:
                    known, asked = self.embed(fold.train), self.embed(fold.held_out[0])
                    if not (torch.isfinite(known).all() and torch.isfinite(asked).all()):
                        break
                    scores[step] = head_scores(self._head, known, labels, asked, n_classes)
                if step == stops[-1]:
                    break
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate * min(1.0, (step + 1) / _WARM_UP_STEPS)
                shown = drawn_pairs(labels, generator)
                self._model.train()
                loss = contrastive_loss(self._computed(fold.train[shown].tolist()), labels[shown])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if not torch.isfinite(loss):
                    break
                nn.utils.clip_grad_norm_(self.parameters, _MAX_GRADIENT_NORM)
                optimiser.step()
                bar.advance(1)
                bar.note(f"loss {loss:.3f}")
        self._model.eval()
        return scores

    def embed(self, positions: Tensor) -> Tensor:
        """Embed texts at positions (n,): (n, d), float32."""
        self._model.eval()
        with torch.no_grad():
            return torch.cat([self._computed(some.tolist()) for some in torch.split(positions, _BATCH)]).cpu()

    def finished(self) -> SentenceTransformer:
        """Return the model as the last training left it, whole."""
        if self._below is not None:
            self._below.restore()
        return self._model

    def _computed(self, positions: list[int]) -> Tensor:
        features = self._model.preprocess([self._texts[n] for n in positions], prompt=self._loaded.prompt)
        device = self._loaded.device
        moved: dict[str, Any] = {
            key: value.to(device) if isinstance(value, Tensor) else value for key, value in features.items()
        }
        if self._below is not None:
            self._below.show(positions, moved["attention_mask"].bool())
        with autocast(device, self._loaded.precision):
            out: Tensor = self._model(moved)["sentence_embedding"]
        return out.float()


def few_folds(splits: Sequence[tuple[Tensor, Tensor]], n: int) -> list[tuple[Tensor, Tensor]]:
    """Join what splits of n examples hold out, so that there are at most three: each costs a training."""
    joined = [torch.cat([held for _, held in splits[start::_FOLDS]]) for start in range(min(_FOLDS, len(splits)))]
    everything = torch.arange(n)
    return [(everything[~torch.isin(everything, held)], held) for held in joined]


def drawn_pairs(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw positions of a batch of about 64: classes in random order, and of each two texts, or more of few classes."""
    n_classes = int(labels.max()) + 1
    each = max(_OF_A_CLASS, _BATCH // n_classes)
    order = torch.randperm(n_classes, generator=generator)[: _BATCH // each]
    found = []
    for number in order.tolist():
        of_class = (labels == number).nonzero().squeeze(1)
        found.append(of_class[torch.randperm(len(of_class), generator=generator)[:each]])
    return torch.cat(found)


def contrastive_loss(vectors: Tensor, labels: Tensor) -> Tensor:
    """Supervised contrastive loss of vectors (n, d): each text's others of its class against all others.

    A text that is alone of its class counts as one to keep apart.

    References
    ----------
    Khosla et al. 2020, arXiv:2004.11362, eq. 2 (L_out).
    """
    unit = normalize(vectors, dim=-1)
    own = torch.eye(len(labels), dtype=torch.bool, device=vectors.device)
    labels = labels.to(vectors.device)
    same = (labels[:, None] == labels[None]) & ~own
    logs = (unit @ unit.mT / _TEMPERATURE).masked_fill(own, -torch.inf).log_softmax(1)
    pairs = same.sum(1)
    each = -logs.masked_fill(~same, 0.0).sum(1) / pairs.clamp_min(1)
    return each.sum() / (pairs > 0).sum().clamp_min(1)
