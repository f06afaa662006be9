"""An ONNX graph from pixels to embeddings, run by onnxruntime."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.runtime.vector_map import Vectors
from fewshot.validation import check_extra

INPUT, OUTPUT = "pixels", "embeddings"


class GraphSession:
    """Embeds pixels.

    Parameters
    ----------
    graph : bytes
        An ONNX model from ``INPUT``, uint8 (n, h, w, 3), to ``OUTPUT``, float32 (n, d).
    threads : int, optional
        By default one for each core.

    Raises
    ------
    MissingExtra : where onnxruntime is not installed.
    ValueError : for another graph.
    """

    def __init__(self, graph: bytes, *, threads: int | None = None) -> None:
        check_extra("runtime", "bundles need", "onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is raised
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = options.intra_op_num_threads = threads or cores
        # Weights lie in the graph: one that names files would have this machine's read, and so finds none.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores read images meanwhile
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types, which share no base
            raise ValueError(
                f"onnxruntime {onnxruntime.__version__} cannot run its encoder.onnx ({_line(error)})"
            ) from error
        names = [one.name for one in (*self._session.get_inputs(), *self._session.get_outputs())]
        if names != [INPUT, OUTPUT]:
            raise ValueError(f"its encoder.onnx has {', '.join(names)}, not {INPUT} and {OUTPUT}")

    def embed(self, pixels: NDArray[np.uint8], dim: int) -> Vectors:
        """Return embeddings (n, dim) of pixels (n, h, w, 3).

        Raises
        ------
        ValueError : where the graph fails, or gives something else.
        """
        try:
            (found,) = self._session.run([OUTPUT], {INPUT: pixels})
        except Exception as error:
            raise ValueError(f"its encoder.onnx fails ({_line(error)})") from error
        if found.shape != (len(pixels), dim) or found.dtype != np.float32:
            raise ValueError(f"its encoder.onnx gives {found.dtype} {found.shape}, not float32 ({len(pixels)}, {dim})")
        return np.asarray(found)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
