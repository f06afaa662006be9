"""Writing a registry as a bundle."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot.errors import NoClasses, RegistryError
from fewshot.files import check_is_another
from fewshot.registry import ClassRegistry, EncoderComparison, ExportedExample, take_parts
from fewshot.runtime.bundle_file import FORMAT, INT8, VERSION, Bundle, write_bundle
from fewshot.runtime.graph_session import GraphSession
from fewshot.runtime.self_test import LEAST_COSINE, self_test_images
from fewshot.runtime.vector_map import Vectors, cosines
from fewshot.validation import check_extra

if TYPE_CHECKING:
    from fewshot.encoders import ExportedEncoder
    from fewshot.openset import KnownClasses

# Examples read at once.
_PAGE = 1_000
_BATCH = 8
# Of onnxruntime's embeddings of the self-test's images to torch's.
_LEAST_COSINE = 0.9999


@dataclass(frozen=True)
class BundleReport:
    """What was written.

    Attributes
    ----------
    size : int
        Bytes.
    leave_one_out : EncoderComparison or None
        In int8: of the registry's encoder, and of the bundle's.
    unmeasured : str or None
        In int8: why there is none.
    """

    size: int
    leave_one_out: EncoderComparison | None = None
    unmeasured: str | None = None


def export_bundle(
    registry: ClassRegistry, path: str | os.PathLike[str], *, opset: int | None = None, int8: bool = False
) -> BundleReport:
    """Write a registry as a bundle for ``Recognizer``: one file without images and paths.

    It holds the encoder as an ONNX graph, what the classifier has learned, its calibration, and the threshold of the
    stored limit on false accepts. The same registry gives the same bytes.

    In int8 the weights are rounded, and the axes of the whitening. What the classifier has learned stays that of the
    registry's own embeddings, and so do calibration and threshold: the rounded encoder's are as good as the same
    (``fewshot.encoders.with_int8_weights``), and a head of their own gave no better answers. How many of the
    registry's examples it still recognises, each from the others, is measured.

    Parameters
    ----------
    registry : ClassRegistry
        Of images.
    path : path
    opset : int, optional
        The version of ONNX's operators; by default ``fewshot.encoders.OPSET``.
    int8 : bool, default False
        A file of a quarter the size, as fast; the embeddings of the registry's examples are computed once more.

    Raises
    ------
    MissingExtra : where onnx, onnxscript or onnxruntime is not installed.
    ValueError : for an encoder or a classifier that cannot be exported, saying why, or the registry's own file.
    NoClasses : for a registry without classes.
    """
    check_extra("onnx", "exporting needs", "onnx", "onnxscript", "onnxruntime")
    from fewshot.calibration import shipped_calibration
    from fewshot.classifiers import export_head
    from fewshot.encoders import OPSET, export_encoder, with_int8_weights
    from fewshot.openset import CENTERED_SCALE

    registry.require_single_label("bundle")
    check_is_another(path, registry.path)
    if registry.is_empty:
        raise NoClasses(f"{registry.path} holds no classes to export; add some first")
    opset = OPSET if opset is None else opset
    labels, vectors, codes = _examples(registry)
    classifier = registry.classifier
    take_parts(classifier, registry.encoder)
    head = export_head(classifier.fit(vectors, codes), shipped_calibration(registry.encoder.fingerprint))
    known, negatives = registry.rejection.known_classes()
    encoder = export_encoder(registry.encoder, opset=opset)
    _check_graph(registry, encoder, vectors.shape[1])
    if int8:
        encoder = replace(encoder, graph=with_int8_weights(encoder.graph))
    arrays = {f"head_{name}": array for name, array in head.arrays.items()}
    arrays |= _unknown_arrays(known, negatives, arrays["head_vectors"])
    arrays["self_test"] = _embedded_self_test(encoder, vectors.shape[1])
    threshold = registry.rejection.threshold()
    about = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": {name: version(name) for name in ("fewshot", "torch", "onnx", "onnxruntime")},
        "modality": registry.modality,
        "labels": labels,
        "counts": np.bincount(codes, minlength=len(labels)).tolist(),
        "encoder": {
            "name": encoder.name,
            "settings": encoder.settings,
            "fingerprint": registry.encoder.fingerprint,
            "dim": vectors.shape[1],
            "precision": INT8 if int8 else "float32",
            "opset": opset,
        },
        "preparation": {
            "resize": encoder.preparation.resize,
            "crop": encoder.preparation.crop,
            "interpolation": encoder.preparation.interpolation,
            "mean": encoder.mean,
            "std": encoder.std,
            "normalised": "in the graph: (pixels / 255 - mean) / std",
        },
        "head": {"kind": head.kind, "parts": head.parts, "means": head.means},
        "calibration": head.calibration,
        "unknown": {
            "background": known.background is not None,
            "center_classes": 0 if known.center is None else known.center.n_classes,
            "scale": CENTERED_SCALE,
        },
        "rejection": None if threshold is None else {
            name: getattr(threshold, name) for name in ("value", "max_false_accept", "false_accept_bound")
        },
        "self_test": {"least_cosine": LEAST_COSINE},
    }  # fmt: skip
    size = write_bundle(Bundle(about, encoder.graph, arrays, _license(encoder)), path)
    return _compared(registry, encoder, vectors.shape[1], size) if int8 else BundleReport(size)


def _compared(registry: ClassRegistry, encoder: ExportedEncoder, dim: int, size: int) -> BundleReport:
    """Recognise the registry's examples with the bundle's encoder."""
    from fewshot.encoders import FunctionEncoder

    session = GraphSession(encoder.graph)
    rounded = FunctionEncoder(
        lambda images: session.embed(np.stack([encoder.preparation(image) for image in images]), dim),
        dim,
        f"{registry.encoder.fingerprint} in int8",
        batch_size=_BATCH,
    )
    try:
        return BundleReport(size, registry.compare_encoding(rounded))
    except (ValueError, RegistryError) as error:
        return BundleReport(size, unmeasured=str(error))


def _examples(registry: ClassRegistry) -> tuple[list[str], Vectors, Any]:
    """The labels (c), in the order they came, and vectors (n, d) with the positions of their labels (n,)."""
    examples: list[ExportedExample] = []
    with registry.reading():
        labels = list(registry.classes())
        while page := registry.export_page(after=examples[-1].id if examples else 0, limit=_PAGE):
            examples += page
    at = {label: n for n, label in enumerate(labels)}
    codes = np.array([at[one.label] for one in examples], np.int64)
    return labels, np.stack([one.vector for one in examples]).astype(np.float32), codes


def _unknown_arrays(known: KnownClasses, negatives: Vectors, head: Vectors) -> dict[str, Vectors]:
    """Name what the unknown score is made of; its prototypes only where they are not the head's."""
    found: dict[str, Any] = {"prototypes": known.prototypes[0]}
    if np.allclose(found["prototypes"].numpy(), head, atol=1e-6):
        del found["prototypes"]
    if known.whitening is not None:
        axes = known.whitening.axes
        found |= {"mean": known.whitening.center.reshape(-1), "axes": axes.reshape(axes.shape[-2:])}
        if known.whitening.factors is not None:
            found["factors"] = known.whitening.factors.reshape(-1)
    if known.center is not None:
        found["center"] = known.center.vector
    arrays = {f"unknown_{name}": np.ascontiguousarray(array.numpy(), np.float32) for name, array in found.items()}
    return arrays | ({"unknown_negatives": negatives} if len(negatives) else {})


def _check_graph(registry: ClassRegistry, encoder: ExportedEncoder, dim: int) -> None:
    """Compare the graph's embeddings of three images with those of the registry's encoder."""
    wanted = registry.encoder.encode(self_test_images())
    least = float(np.diagonal(cosines(_embedded_self_test(encoder, dim), wanted)).min())
    if least < _LEAST_COSINE and getattr(registry.encoder, "resolved_precision", "float32") == "float32":
        raise ValueError(
            f"{encoder.name} cannot be exported: onnxruntime's embeddings have cosines of {least:.4f} and more to "
            f"torch's, not {_LEAST_COSINE} at least"
        )


def _embedded_self_test(encoder: ExportedEncoder, dim: int) -> Vectors:
    pixels = np.stack([encoder.preparation(image) for image in self_test_images()])
    return GraphSession(encoder.graph).embed(pixels, dim)


def _license(encoder: ExportedEncoder) -> str:
    stated = encoder.license or "not stated by its publisher"
    origin = f"\nOrigin: {encoder.origin}" if encoder.origin else ""
    return (
        f"encoder.onnx holds the weights of {encoder.name}.\nLicense of the weights: {stated}{origin}\n"
        "Whoever passes this file on must keep to that license. The arrays beside it were computed from the images of "
        f"the registry's owner; no image is in this file.\n{encoder.notes and chr(10)}{encoder.notes}"
    )
