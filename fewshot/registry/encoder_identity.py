"""Which encoder and metric a registry belongs to: remembered when it is made, checked ever after."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fewshot.errors import EncoderMismatch, NoClasses, RegistryError
from fewshot.media import MODALITIES, medium_of
from fewshot.registry.store import RegistryStore
from fewshot.validation import METRICS, Metric, check_choice

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

_MOST = 2**24  # more numbers than any encoder makes of an example
_SPEC: dict[str, Any] = {
    "name": str,
    "layer": (int, str, type(None)),
    "pool": (str, type(None)),
    "prompt": str,
    "normalize": bool,
    "embeds": str,
    "seconds": (int, float),
    "layers": (list, str),
    "tta": bool,
}


def settle(
    store: RegistryStore, classifier_metric: Metric | None, metric: Metric | None, keep_images: bool | None
) -> None:
    """Fix the metric, and whether bytes are kept, of a new registry; of an old one, refuse another metric.

    Raises
    ------
    ValueError : if the metric and the classifier's disagree.
    EncoderMismatch : if the registry has another metric.
    """
    for given in (metric, classifier_metric):
        if given is not None:
            check_choice("metric", given, METRICS)
    if metric and classifier_metric and metric != classifier_metric:
        raise ValueError(f"metric={metric!r} disagrees with the classifier's metric {classifier_metric!r}")
    wanted = metric or classifier_metric
    check_settings(store)
    if "metric" not in store.meta():
        with store.write():
            if "metric" not in store.meta():
                store.set_meta(metric=wanted or "cosine", keep_images=int(keep_images is not False))
                if wanted:
                    store.set_meta(metric_asked=1)  # so that no import changes it
    if wanted:
        check_metric(store, wanted)
    if keep_images is not None and keep_images != bool(store.meta()["keep_images"]):
        with store.write():
            store.set_meta(keep_images=int(keep_images))


def check_metric(store: RegistryStore, metric: Metric) -> None:
    """Raise EncoderMismatch unless the registry has this metric."""
    own = store.meta()["metric"]
    if metric != own:
        raise EncoderMismatch(
            f"registry {store.path!r} was made for the metric {own!r}, not {metric!r}: open it with {own!r}, or "
            f"register the {medium_of(store.modality).noun}s again in a new file made with {metric!r}"
        )


def check_settings(store: RegistryStore, settings: Mapping[str, Any] | None = None) -> None:
    """Raise RegistryError where a registry's settings, by default the file's, are none that were ever stored."""
    meta = store.meta() if settings is None else settings
    sound: dict[str, Callable[[Any], bool]] = {
        "metric": lambda value: value in METRICS,
        "keep_images": lambda value: isinstance(value, int),
        "fingerprint": lambda value: isinstance(value, str),
        "dim": lambda value: isinstance(value, int) and 0 < value < _MOST,
        "modality": lambda value: value in MODALITIES,
        "encoder": _is_encoder,
        "classifier": _is_classifier,
        "max_false_accept": lambda value: isinstance(value, (int, float)) and 0 < value < 1,
        "revision": lambda value: isinstance(value, int),
        "rewrites": lambda value: isinstance(value, int),
    }
    for key, is_sound in sound.items():
        if key in meta and not is_sound(meta[key]):
            raise RegistryError(f"{store.path} is damaged: its settings say {key} is {meta[key]!r}. {store.remedy}")


def _is_encoder(text: Any) -> bool:
    """Whether this describes an encoder, as ``TimmEncoder.spec`` does; {} is one of the user's own."""
    try:
        spec = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(spec, dict) and all(isinstance(spec.get(key), kind) for key, kind in _SPEC.items() if key in spec)


def _is_classifier(text: Any) -> bool:
    """Whether this describes a classifier by its type and parameters."""
    try:
        spec = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(spec, dict) and isinstance(spec.get("type"), str) and isinstance(spec.get("params"), dict)


def loaded_encoder(encoder: Encoder | str) -> Encoder:
    """Load an encoder by name, or check that an object is one."""
    from fewshot.encoders import check_is_encoder, load_encoder

    return load_encoder(encoder) if isinstance(encoder, str) else check_is_encoder(encoder)


def remember_encoder(store: RegistryStore, encoder: Encoder) -> None:
    """Note the encoder of a new registry; of an old one, check that it is the same."""
    if "fingerprint" not in store.meta():
        with store.write():
            if "fingerprint" not in store.meta():
                store.set_meta(**encoder_meta(encoder))
    check_encoder(store, encoder)


def check_encoder(store: RegistryStore, encoder: Encoder, settings: Mapping[str, Any] | None = None) -> None:
    """Raise EncoderMismatch, naming both and the remedy, unless the registry's vectors are this encoder's.

    The settings are those of a snapshot, or by default the file's.
    """
    from fewshot.encoders import modality_of

    meta = store.meta() if settings is None else settings
    if meta.get("fingerprint", encoder.fingerprint) == encoder.fingerprint:
        return
    spec = str(encoder_meta(encoder)["encoder"])
    given = name_of(spec)
    reads, held = medium_of(modality_of(encoder)), medium_of(meta.get("modality", "image"))
    if reads is not held:
        raise EncoderMismatch(
            f"registry {store.path!r} holds {held.noun}s, by {name_of(meta['encoder'])}, and {given} reads "
            f"{reads.noun}s: open it with the first; {reads.noun}s go into a registry of their own"
        )
    if "name" in json.loads(spec):
        remedy = f"fewshot reindex {shlex.quote(store.path)} --encoder {given}"
    else:
        remedy = f"ClassRegistry({store.path!r}).reindex(encoder)"
    raise EncoderMismatch(
        f"registry {store.path!r} holds embeddings from {name_of(meta['encoder'])} (d={meta['dim']}, fingerprint "
        f"{meta['fingerprint'][:8]}), but this encoder is {given} (d={encoder.dim}, fingerprint "
        f"{encoder.fingerprint[:8]}). They cannot be compared: open it with the first, or rebuild with: {remedy}"
    )


def described(store: RegistryStore) -> dict[str, Any]:
    """Return the settings of a registry that has been added to.

    Raises
    ------
    RegistryError : if nothing was added yet, so that it has no encoder.
    """
    meta = store.meta()
    if "fingerprint" not in meta:
        raise NoClasses(f"{store.path} holds no classes yet; add some with: fewshot add {store.path} LABEL FILE...")
    return meta


def encoder_meta(encoder: Encoder) -> dict[str, str | int]:
    """Return what is remembered of an encoder."""
    from fewshot.encoders import modality_of

    return {
        "encoder": json.dumps(getattr(encoder, "spec", {})),
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "modality": modality_of(encoder),
    }


def found_beside(path: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Where an encoder's folder is not where it was, but one of its name lies beside the registry: take that one.

    A registry and the encoder tuned for it are moved together; ``check_encoder`` tells whether it is the same.

    Raises
    ------
    RegistryError : if it is in neither place.
    """
    if lost := lost_encoder(path, spec):
        raise RegistryError(lost)
    folder = encoder_folder(spec)
    if folder is None or os.path.isdir(folder):
        return spec
    kind = str(spec["name"]).partition(":")[0]
    return {**spec, "name": f"{kind}:{_near(path, folder)}"}


def encoder_folder(spec: dict[str, Any]) -> str | None:
    """Return the folder that an encoder is loaded from, where it is one that no hub has."""
    kind, _, folder = str(spec.get("name")).partition(":")
    return folder if kind == "local-dir" or (kind in ("st", "audio", "clip") and os.path.isabs(folder)) else None


def lost_encoder(path: str, spec: dict[str, Any]) -> str | None:
    """Say what to do where an encoder's folder is neither where it was nor beside the registry."""
    folder = encoder_folder(spec)
    if folder is None or os.path.isdir(folder) or os.path.isdir(near := _near(path, folder)):
        return None
    return (
        f"the encoder of {path} was in the folder {folder}, which is not there. Put it back, or beside the registry as "
        f"{near}; or embed all examples anew with another: fewshot reindex {shlex.quote(path)} --encoder NAME"
    )


def _near(path: str, folder: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(path)), os.path.basename(os.path.normpath(folder)))


def name_of(encoder: str) -> str:
    """From an encoder's remembered description to words: its name, with what else is set, as options."""
    spec = json.loads(encoder)
    layers = spec.get("layers")
    if isinstance(layers, list):
        spec["layers"] = ",".join(map(str, layers))
    extras = "".join(f" --{key} {spec[key]}" for key in ("layer", "pool", "layers") if spec.get(key) is not None)
    return str(spec.get("name", "an encoder of your own")) + extras + (" --tta" if spec.get("tta") else "")
