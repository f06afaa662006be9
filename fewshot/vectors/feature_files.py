"""Embeddings as open files, .npz or .parquet: ids, labels, vectors, hashes, sources and the encoder's fingerprint."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.files import replacing
from fewshot.media import MODALITIES
from fewshot.validation import METRICS, check_choice, check_extra, check_label, check_vectors

_FEATURE_COLUMNS = ("vectors", "labels", "sources", "groups")
_TEXTS = ("fingerprint", "encoder", "metric", "modality", "descriptions")


@dataclass(frozen=True)
class Exported:
    """The columns of an export: n ids, labels, vectors (n, d), hashes and sources; and what made the vectors.

    ``texts`` are those of a registry of texts, "" where it does not keep one; None of anything else.
    """

    ids: NDArray[np.int64]
    labels: list[str]
    vectors: NDArray[np.float32]
    sha256: list[str]
    sources: list[str]
    fingerprint: str
    encoder: str
    metric: str
    modality: str = "image"
    descriptions: str = "{}"  # JSON, from a label to the text and the base64 of its vector (d,), float32
    texts: list[str] | None = None


@dataclass(frozen=True)
class FeatureFile:
    """Embeddings (n, d) from an export, or from a file that another program has written.

    Labels, sources (names of the examples) and groups are None where the file has none; so are the encoder's
    fingerprint and its description (JSON). A single one that is missing, null or NaN, is "".
    """

    vectors: NDArray[np.float32]
    labels: list[str] | None
    sources: list[str] | None
    groups: list[str] | None
    fingerprint: str | None
    encoder: str | None


def write(path: Path, exported: Exported) -> None:
    """Write an export; the file's suffix chooses the format, and it appears whole or not at all.

    Raises
    ------
    ValueError : for another suffix.
    MissingExtra : for .parquet without pyarrow.
    """
    check_suffix(path)
    with replacing(path) as temporary:
        (_write_parquet if path.suffix == ".parquet" else _write_npz)(temporary, exported)


def read(path: Path) -> Exported:
    """Read an export.

    Raises
    ------
    FileNotFoundError : if there is none.
    ValueError : if the file is something else, or damaged.
    """
    check(path)
    try:
        exported = (_read_parquet if path.suffix == ".parquet" else _read_npz)(path)
        _check_columns(exported)
        return exported
    except Exception as error:
        raise ValueError(f"{path} is not an export of a registry: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    # numpy takes a file of no format for a pickle, and says how to load that.
    return "no .npz or .parquet file" if "pickle" in str(error) else str(error)


def read_features(path: Path) -> FeatureFile:
    """Read vectors, and what else is there, from a file that needs to hold no more than "vectors".

    The other arrays of a .npz, or columns of a .parquet, are "labels", "sources" and "groups"; "vector", "label",
    "source" and "group" do too.

    Raises
    ------
    FileNotFoundError : if there is none.
    ValueError : if the file is something else or damaged, holds no vectors, or columns of different lengths.
    MissingExtra : for .parquet without pyarrow.
    """
    check(path)
    try:
        columns, described = (_parquet_columns if path.suffix == ".parquet" else _npz_columns)(path)
        if "vectors" not in columns:
            raise ValueError(f"it holds {', '.join(columns) or 'nothing'}, but no vectors")
        vectors = np.asarray(columns.pop("vectors"))
        if vectors.ndim != 2:
            raise ValueError(f"its vectors have the shape {vectors.shape}, not (n, d)")
        vectors = check_vectors(vectors, vectors.shape[1])
        for name, column in columns.items():
            if np.shape(column) != (len(vectors),):
                raise ValueError(f"it holds {len(vectors)} vectors but {name} of shape {np.shape(column)}")
        texts = {name: list(map(_text, column)) for name, column in columns.items()}
    except Exception as error:
        raise ValueError(f"{path} is not a feature file ({error})") from error
    return FeatureFile(
        vectors,
        texts.get("labels"),
        texts.get("sources"),
        texts.get("groups"),
        described.get("fingerprint"),
        described.get("encoder"),
    )


def _check_columns(exported: Exported) -> None:
    n = len(exported.ids)
    if exported.vectors.ndim != 2:
        raise ValueError(f"its vectors have the shape {exported.vectors.shape}, not (n, d)")
    check_vectors(exported.vectors, exported.vectors.shape[1])
    for name in ("labels", "vectors", "sha256", "sources", *(() if exported.texts is None else ("texts",))):
        if len(getattr(exported, name)) != n:
            raise ValueError(f"it holds {n} ids but {len(getattr(exported, name))} {name}")
    for label in exported.labels:
        check_label(label)
    for sha256 in exported.sha256:
        if len(bytes.fromhex(sha256)) != 32:
            raise ValueError(f"{sha256!r} is not a SHA-256")
    check_choice("metric", exported.metric, METRICS)
    check_choice("modality", exported.modality, MODALITIES)
    json.loads(exported.encoder)
    for label in json.loads(exported.descriptions):
        check_label(label)


def check(path: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError, ValueError or MissingExtra unless there is a file of a suffix that can be read."""
    check_suffix(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such file: {path}")


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a suffix that is neither .npz nor .parquet, MissingExtra for .parquet without pyarrow."""
    suffix = Path(path).suffix
    if suffix not in (".npz", ".parquet"):
        raise ValueError(f"{path}: an export is a .npz or .parquet file, not {suffix or 'without suffix'}")
    if suffix == ".parquet":
        check_extra("parquet", f"{path}: parquet files need", "pyarrow")


def _write_npz(target: Path, exported: Exported) -> None:
    # Of one text, for in an array of many each takes as much as the longest.
    texts: dict[str, Any] = {} if exported.texts is None else {"texts": np.array(json.dumps(exported.texts))}
    with open(target, "wb") as file:
        np.savez_compressed(
            file,
            ids=exported.ids,
            labels=np.array(exported.labels, str),
            vectors=exported.vectors,
            sha256=np.array(exported.sha256, str),
            sources=np.array(exported.sources, str),
            fingerprint=np.array(exported.fingerprint),
            encoder=np.array(exported.encoder),
            metric=np.array(exported.metric),
            modality=np.array(exported.modality),
            descriptions=np.array(exported.descriptions),
            **texts,
        )


def _read_npz(path: Path) -> Exported:
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:  # np.load leaves a torn file open
        return Exported(
            ids=file["ids"],
            labels=file["labels"].tolist(),
            vectors=np.asarray(file["vectors"], np.float32),
            sha256=file["sha256"].tolist(),
            sources=file["sources"].tolist(),
            texts=json.loads(str(file["texts"])) if "texts" in file.files else None,
            **{name: str(file[name]) for name in _TEXTS if name in file.files},
        )


def _write_parquet(target: Path, exported: Exported) -> None:
    import pyarrow.parquet

    width = exported.vectors.shape[1]
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(exported.vectors.ravel()), width)
    table = pyarrow.table(
        {
            "id": exported.ids,
            "label": exported.labels,
            "vector": vectors,
            "sha256": exported.sha256,
            "source": exported.sources,
            **({} if exported.texts is None else {"text": exported.texts}),
        }
    )
    described = json.dumps({name: getattr(exported, name) for name in _TEXTS})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"fewshot": described}), target)


def _read_parquet(path: Path) -> Exported:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    described = json.loads(table.schema.metadata[b"fewshot"])
    column = table["vector"]
    vectors = np.empty((table.num_rows, column.type.list_size), np.float32)
    if table.num_rows:
        np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks], out=vectors.reshape(-1))
    return Exported(
        ids=table["id"].to_numpy(),
        labels=table["label"].to_pylist(),
        vectors=vectors,
        sha256=table["sha256"].to_pylist(),
        sources=table["source"].to_pylist(),
        texts=table["text"].to_pylist() if "text" in table.column_names else None,
        **described,
    )


def _npz_columns(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        columns = {name: file[key].tolist() if name != "vectors" else file[key] for name, key in _named(file.files)}
        return columns, {name: str(file[name]) for name in ("fingerprint", "encoder") if name in file.files}


def _parquet_columns(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    columns = {name: table[key].to_pylist() for name, key in _named(table.column_names) if name != "vectors"}
    for name, key in _named(table.column_names):
        if name == "vectors":
            columns[name] = _parquet_vectors(table[key])
    return columns, json.loads((table.schema.metadata or {}).get(b"fewshot", b"{}"))


def _parquet_vectors(column: Any) -> NDArray[Any]:
    from pyarrow.compute import list_value_length, unique

    lengths = unique(list_value_length(column)).to_pylist()
    if len(lengths) > 1 or None in lengths:
        raise ValueError(f"its vectors have several lengths: {', '.join(map(str, lengths))}")
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat: NDArray[Any] = np.concatenate([np.empty(0, np.float32), *chunks])
    return flat.reshape(len(column), *lengths or [0])


def _text(value: Any) -> str:
    """Write a label; "" for one that is missing, None or NaN."""
    return "" if value is None or value != value else str(value)


def _named(found: list[str]) -> list[tuple[str, str]]:
    """Pair each column's plural name with the name it has in the file."""
    return [(name, key) for name in _FEATURE_COLUMNS for key in (name, name[:-1]) if key in found]
