"""torchvision's detectors as proposers: their boxes, whatever class they give them."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from PIL import Image

from fewshot.detection.boxes import Box
from fewshot.detection.proposals import Proposal


class TorchvisionProposer:
    """Proposes the boxes that one of torchvision's detectors finds.

    Parameters
    ----------
    name : str
        As of ``torchvision.models.get_model``: "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn", ...
    weights : {"DEFAULT"}, str or None
        As of torchvision, which downloads them when they are first used; None for random ones, which propose at random.
    min_score : float, default 0.05
        Boxes of a lower score are left out.
    device : str, optional
        By default "cuda" where there is one, else "cpu".
    **settings
        Of the detector, such as ``box_detections_per_img``.

    Raises
    ------
    ValueError : for a name that is no detector of torchvision's, listing them.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | None = "DEFAULT",
        min_score: float = 0.05,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        from torchvision import models

        known = models.list_models(module=models.detection)
        if name not in known:
            raise ValueError(f"torchvision has no detector {name!r}; it has {', '.join(known)}")
        if weights is None:
            settings.setdefault("weights_backbone", None)
        self.name, self.min_score = name, min_score
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            with redirect_stdout(sys.stderr):  # where torch tells of a download, amid a command's result
                network = models.get_model(name, weights=weights, **settings)
        except OSError as error:
            raise OSError(
                f"torchvision could not load the weights of {name}: {error}. Without a network, put them where "
                "torchvision keeps them ($TORCH_HOME/hub/checkpoints), or take --proposer regions"
            ) from error
        self._network = network.eval().to(self._device)

    def propose(self, image: Image.Image, name: str) -> list[Proposal]:
        """Return the boxes of an upright RGB image, those of the highest score first."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(self._device).float() / 255
        with torch.inference_mode():
            (found,) = self._network([pixels])
        kept = found["scores"] >= self.min_score
        boxes, scores = found["boxes"][kept].tolist(), found["scores"][kept].tolist()
        return [Proposal(Box(*box), score) for box, score in zip(boxes, scores, strict=True)]
