"""Writing a registry as a bundle."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import NoClasses, RegistryError
from fewshot.files import check_is_another
from fewshot.registry import ClassRegistry, EncoderComparison, ExportedExample, take_parts
from fewshot.runtime.bundle_file import FORMAT, INT8, VERSION, Bundle, write_bundle
from fewshot.runtime.graph_session import GraphSession
from fewshot.runtime.self_test import LEAST_COSINE, self_test_images
from fewshot.runtime.vector_map import Vectors, cosines
from fewshot.validation import check_extra

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier
    from fewshot.encoders import Encoder, ExportedEncoder
    from fewshot.openset import KnownClasses, Threshold

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
    _check_extra()
    registry.require_single_label("bundle")
    check_is_another(path, registry.path)
    if registry.is_empty:
        raise NoClasses(f"{registry.path} holds no classes to export; add some first")
    labels, vectors, codes = _examples(registry)
    classifier = registry.classifier
    take_parts(classifier, registry.encoder)
    known, negatives = registry.rejection.known_classes()
    threshold = registry.rejection.threshold()
    given = _Given(registry.encoder, classifier.fit(vectors, codes), labels, codes, known, negatives, threshold)
    size, encoder = _written(given, path, opset, int8=int8)
    return _compared(registry, encoder, vectors.shape[1], size) if int8 else BundleReport(size)


def export_classifier(
    classifier: FewShotClassifier,
    encoder: Encoder,
    vectors: Vectors,
    y: Iterable[Hashable],
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    int8: bool = False,
) -> int:
    """Write a fitted classifier of an encoder's embeddings as a bundle; returns its bytes.

    Parameters
    ----------
    classifier : FewShotClassifier
        Its labels become text.
    encoder : Encoder
    vectors : ndarray of shape (n, d), float32
    y : n labels
        What it was fitted with.
    path, opset, int8
        As of ``export_bundle``.

    Raises
    ------
    MissingExtra : where onnx, onnxscript or onnxruntime is not installed.
    ValueError : for an encoder or a classifier that cannot be exported, or labels that are one text, saying why.
    """
    _check_extra()
    import torch

    from fewshot.classifiers import Membership
    from fewshot.openset import KnownClasses, shipped_center

    labels = [str(label) for label in classifier.classes_.tolist()]
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels are text in a bundle, and two of {classifier.classes_.tolist()} are the same text")
    at = {label: n for n, label in enumerate(classifier.classes_.tolist())}
    codes = np.array([at[label] for label in y], np.int64)
    membership = Membership(torch.from_numpy(codes)[None], len(labels))
    center = shipped_center(encoder.fingerprint)
    known = KnownClasses.of(torch.from_numpy(vectors)[None], membership, None, center)
    none = np.empty((0, vectors.shape[1]), np.float32)
    given = _Given(encoder, classifier, labels, codes, known, none, None)
    return _written(given, path, opset, int8=int8)[0]


@dataclass(frozen=True)
class _Given:
    """What a bundle is made of; the classifier is fitted."""

    encoder: Encoder
    classifier: FewShotClassifier
    labels: list[str]
    codes: NDArray[np.int64]
    known: KnownClasses
    negatives: Vectors
    threshold: Threshold | None


def _check_extra() -> None:
    check_extra("onnx", "exporting needs", "onnx", "onnxscript", "onnxruntime")


def _written(
    given: _Given, path: str | os.PathLike[str], opset: int | None, *, int8: bool
) -> tuple[int, ExportedEncoder]:
    """Write a bundle; returns its bytes, and the encoder as it is in it."""
    from fewshot.calibration import shipped_calibration
    from fewshot.classifiers import export_head
    from fewshot.encoders import OPSET, export_encoder, with_int8_weights
    from fewshot.openset import CENTERED_SCALE

    opset = OPSET if opset is None else opset
    known, threshold = given.known, given.threshold
    head = export_head(given.classifier, shipped_calibration(given.encoder.fingerprint))
    arrays = {f"head_{name}": array for name, array in head.arrays.items()}
    dim = arrays["head_vectors"].shape[1]
    encoder = export_encoder(given.encoder, opset=opset)
    _check_graph(given.encoder, encoder, dim)
    if int8:
        encoder = replace(encoder, graph=with_int8_weights(encoder.graph))
    arrays |= _unknown_arrays(known, given.negatives, arrays["head_vectors"])
    arrays["self_test"] = _embedded_self_test(encoder, dim)
    about = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": {name: version(name) for name in ("fewshot", "torch", "onnx", "onnxruntime")},
        "modality": "image",
        "labels": given.labels,
        "counts": np.bincount(given.codes, minlength=len(given.labels)).tolist(),
        "encoder": {
            "name": encoder.name,
            "settings": encoder.settings,
            "fingerprint": given.encoder.fingerprint,
            "dim": dim,
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
    return write_bundle(Bundle(about, encoder.graph, arrays, _license(encoder)), path), encoder


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


def _check_graph(encoder: Encoder, exported: ExportedEncoder, dim: int) -> None:
    """Compare the graph's embeddings of three images with those of the encoder."""
    wanted = encoder.encode(self_test_images())
    least = float(np.diagonal(cosines(_embedded_self_test(exported, dim), wanted)).min())
    if least < _LEAST_COSINE and getattr(encoder, "resolved_precision", "float32") == "float32":
        raise ValueError(
            f"{exported.name} cannot be exported: onnxruntime's embeddings have cosines of {least:.4f} and more to "
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
