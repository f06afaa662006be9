"""A network fine-tuned on a support set: its parts, the split, the search, and the final training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.encoders import TimmEncoder
from fewshot.finetuning.conv_norm_fusion import fused_norms
from fewshot.finetuning.frozen_baseline import FrozenBaseline
from fewshot.finetuning.graph_memory import chunk_sizes
from fewshot.finetuning.image_views import GIB
from fewshot.finetuning.lora import merge_adapters
from fewshot.finetuning.network_split import inference_trunk, split_network
from fewshot.finetuning.search import Candidate, make_folds, search
from fewshot.finetuning.strided_convolutions import strided_in_float32
from fewshot.finetuning.support_maps import SupportMaps, TrunkEncoder
from fewshot.finetuning.top_trainer import Fold, TopTrainer
from fewshot.finetuning.trainable_parts import trainable_blocks
from fewshot.progress import Progress
from fewshot.training import Workers, worker_count

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier

LEARNING_RATES = (3e-4, 2e-3)
STOPS = (10, 20, 40)
_LEAST_OF_A_WORKER = 8


@dataclass(frozen=True)
class Settings:
    """``FineTuneClassifier``'s parameters, but for the encoder, and with the head in any case."""

    trainable: str | None
    loss: str
    schedule: str
    steps: int | None
    learning_rate: float | None
    views: int
    flip: bool
    head: FewShotClassifier
    tta: bool | None
    rank: int
    memory: float
    random_state: int

    @property
    def given(self) -> Candidate | None:
        """The candidate, where nothing is left to search for."""
        if self.steps is None or self.learning_rate is None:
            return None
        return Candidate(self.steps, self.learning_rate, None, None, None)


@dataclass(frozen=True)
class TunedNetwork:
    """What fine-tuning leaves.

    Attributes
    ----------
    network : nn.Module or None
        Float32, on the CPU; None where the encoder stays as it is.
    candidate : Candidate
    parameters : int
        How many train.
    """

    network: nn.Module | None
    candidate: Candidate
    parameters: int


@dataclass(frozen=True)
class TunedEncoder:
    """The encoder that answers, the given one where ``candidate.steps`` is 0, and its embeddings (s, d) of the support.

    Attributes
    ----------
    tta : bool
        Whether embeddings are sums of directions of an image and of its flipped centre.
    parameters : int
        How many train.
    """

    encoder: Any
    embeddings: NDArray[np.float32]
    tta: bool
    candidate: Candidate
    parameters: int


def tune_network(
    encoder: TimmEncoder,
    pixels: NDArray[np.uint8],
    labels: Tensor,
    baseline: FrozenBaseline | None,
    settings: Settings,
) -> TunedNetwork:
    """Fine-tune a copy of an encoder's network on a support set.

    Parameters
    ----------
    encoder : TimmEncoder
    pixels : ndarray of shape (s, h, w, 3), uint8
        As the encoder prepares images.
    labels : Tensor of shape (s,), int64
        0 to c - 1, each at least once.
    baseline : FrozenBaseline or None
        The head on the untouched encoder, which fine-tuning must beat; None: it is computed where it is needed.
    settings : Settings

    Raises
    ------
    ValueError : for parts that the network does not have, too little memory, or a learning rate at which training
        diverges.
    """
    loaded, seed = encoder.loaded, settings.random_state
    network = encoder.exact_network()
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays
        torch.manual_seed(seed)
        assert settings.trainable is not None  # which sentence encoders alone take
        blocks = trainable_blocks(network, settings.trainable, settings.rank)
    example = torch.rand(1, 3, *pixels.shape[1:3], generator=torch.Generator().manual_seed(0))
    trunk, top = split_network(network, encoder.pool, example)
    with torch.no_grad():
        maps = trunk(example)
    trunk = inference_trunk(trunk, example, loaded.device, loaded.precision)
    n_workers = worker_count(loaded.device, len(pixels), least=_LEAST_OF_A_WORKER)
    with fused_norms(top, maps), strided_in_float32(top.to(loaded.device)), Workers(top, n_workers) as workers:
        trunk_encoder = TrunkEncoder(trunk, loaded, workers, settings.flip, seed)
        pair = trunk_encoder.plain((255 * torch.cat([example, 1 - example])).byte().permute(0, 2, 3, 1).numpy())
        support = trunk_encoder.support(pixels, labels, settings.views, settings.memory / 2 * GIB)
        trainer = TopTrainer(
            [list(block.values()) for block in blocks],
            loaded,
            workers,
            chunk_sizes(top, pair, loaded, n_workers, settings.memory),
            settings.head,
            loss=settings.loss,
            schedule=settings.schedule,
            seed=seed,
        )
        candidate = _search_and_fit(trainer, support, baseline, settings)
    merge_adapters(network)
    count = sum(parameter.numel() for block in blocks for parameter in block.values())
    return TunedNetwork(network.cpu() if candidate.steps else None, candidate, count)


def _search_and_fit(
    trainer: TopTrainer, support: SupportMaps, baseline: FrozenBaseline | None, settings: Settings
) -> Candidate:
    """Search for steps and learning rate, unless both are given, and train the top on the whole support."""
    rates = LEARNING_RATES if settings.learning_rate is None else (settings.learning_rate,)
    stops = STOPS if settings.steps is None else (settings.steps,)
    held_out, folds = make_folds(support, settings.random_state)
    trainings = 1 if settings.given else len(rates) + len(folds)
    with Progress(stops[-1] * trainings, "fine-tune", unit="step") as bar:
        candidate = settings.given or search(trainer, support, folds, held_out, rates, stops, baseline, bar)
        if candidate.steps:
            everything = Fold(
                torch.arange(len(support.labels)), torch.arange(len(support.views[0])), support.plain, support.labels
            )
            scores = trainer.fit(support, everything, candidate.learning_rate, (candidate.steps,), bar)
            if candidate.steps not in scores or not bool(torch.isfinite(scores[candidate.steps]).all()):
                raise ValueError(
                    f"fine-tuning diverged at a learning rate of {candidate.learning_rate:g}: give a lower one, or "
                    "leave it out"
                )
    return candidate
