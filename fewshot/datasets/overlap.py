"""Overlap between an encoder's training data and the classes of a data set."""

from __future__ import annotations

import re

from fewshot.datasets.dataset import Dataset

IMAGENET = "imagenet"
TINY_TRAIN = "tiny-imagenet train"
BACKGROUND = "omniglot background"

_WORDS = {
    IMAGENET: "ImageNet",
    TINY_TRAIN: "the train classes of Tiny ImageNet",
    BACKGROUND: "the background alphabets of Omniglot",
}

# What an encoder was trained on, by its name: the bundled one; and the tags of timm's networks. ImageNet's 12, 21 and
# 22 thousand classes hold its 1,000; MAE, FCMAE and DINO trained on its images without labels; DINOv2's LVD-142M and
# DINOv3's training hold its training set; EVA-02's merged 38 million images hold all of it.
_TRAINED_ON: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"^pocket$", (TINY_TRAIN, BACKGROUND)),
    (r"(?<![a-z0-9])inw?(1|12|21|22)k", (IMAGENET,)),
    (r"\.((fc)?mae|(fb_)?dino|(.*_)?lvd142m|(.*_)?lvd1689m|mim_m38m)$", (IMAGENET,)),
)


def training_overlap(encoder: str, dataset: Dataset) -> str | None:
    """Describe the overlap between an encoder's training data and a data set; None where none is known.

    Parameters
    ----------
    encoder : str
        The name it was loaded by: "pocket", a timm name with its tag, "hf-hub:timm/..." or a folder named so.
    dataset : Dataset
        Its ``contained_in`` is compared with the training data that the encoder's name tells.

    Returns
    -------
    str or None
        For the flag in a table. None is no proof: what contrastive web-scale sets (CLIP, SigLIP) hold is unknown, and
        sets of similar classes (CIFAR-100, Oxford pets, ...) are not called overlapping.
    """
    base = encoder.rstrip("/\\").replace("\\", "/").split("/")[-1].rpartition(":")[2]
    trained_on = [source for pattern, sources in _TRAINED_ON if re.search(pattern, base) for source in sources]
    shared = [_WORDS[source] for source in dict.fromkeys(trained_on) if source in dataset.contained_in]
    if shared:
        return f"the encoder has seen classes of this set in training: {' and '.join(shared)}"
    if base == encoder and not trained_on and "." not in base and IMAGENET in dataset.contained_in:
        return (
            "the encoder's name does not tell what it was trained on; timm's networks mostly were on ImageNet, "
            "which contains classes of this set"
        )
    return None
