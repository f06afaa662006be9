"""Sounds: who speaks and which digit is spoken, of voices and digits not in the support.

    python benchmarks/audio.py --work work

The Free Spoken Digit Dataset: ten digits by six speakers, 20 takes of each, 8 kHz. "who speaks": six speakers, the
support of five digits, the queries of the other five. "which digit": ten digits, the support of three speakers, the
queries of the other three. 200 draws, 15 queries of each class. VoiceEncoder was trained to tell speakers apart and
to disregard what they say.

Beside it, with no training at all, the mean and standard deviation over time of a log-mel spectrogram.
"""

from __future__ import annotations

import argparse
import io
import sys
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from common import save, shared_file
from scipy.stats import t as student
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from fewshot import EmbeddingCache, VoiceEncoder
from fewshot.classifiers import LogisticRegressionClassifier, PrototypeClassifier, WhitenedPrototypeClassifier

TAKES, DRAWS, QUERIES = 20, 200, 15
TASKS = {"who speaks": ("speaker", "digit", 5), "which digit": ("digit", "speaker", 3)}
METHODS = {
    "whitened": WhitenedPrototypeClassifier,
    "prototype": PrototypeClassifier,
    "logistic": lambda: LogisticRegressionClassifier(C=10.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for vectors")
    options = parser.parse_args()
    Path(options.work).mkdir(parents=True, exist_ok=True)
    sounds, names = recordings()
    encoders = {
        "voice": EmbeddingCache(VoiceEncoder(), Path(options.work) / "vectors.sqlite").encode(sounds),
        "mel statistics": np.stack([mel_statistics(sound) for sound in sounds]),
    }
    rows = []
    for encoder, X in encoders.items():
        for task in TASKS:
            for shots in (1, 5):
                rows += measured(encoder, X, names, task, shots)
    save("audio", {"draws": DRAWS, "queries": QUERIES, "rows": rows})


def recordings() -> tuple[list[bytes], dict[str, np.ndarray]]:
    """Return WAV files, and of each its speaker and digit."""
    with zipfile.ZipFile(shared_file("data", "audio", "spoken_digits.zip")) as archive:
        entries = sorted(name for name in archive.namelist() if name.endswith(".wav"))
        parts = [(Path(name).parent.name, *Path(name).stem.split("_")) for name in entries]
        kept = [n for n, (_, _, take) in enumerate(parts) if int(take) < TAKES]
        sounds = [archive.read(entries[n]) for n in kept]
    return sounds, {
        "digit": np.array([parts[n][0] for n in kept]),
        "speaker": np.array([parts[n][1] for n in kept]),
    }


def mel_statistics(sound: bytes) -> np.ndarray:
    """Return the mean and standard deviation over time of 40 log-mel bands: (80,)."""
    with wave.open(io.BytesIO(sound)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
    bank = mel_filter_bank(129, 40, 0.0, 4000.0, 8000, norm="slaney", mel_scale="slaney")
    mel = spectrogram(samples, window_function(256), 256, 80, mel_filters=bank, log_mel="log")
    return np.concatenate([mel.mean(1), mel.std(1)]).astype(np.float32)


def measured(encoder: str, X: np.ndarray, names: dict[str, np.ndarray], task: str, shots: int) -> list[dict[str, Any]]:
    wanted, other, n_known = TASKS[task]
    y, condition = names[wanted], names[other]
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        known = np.isin(condition, rng.permutation(np.unique(condition))[:n_known])
        support, queries = (
            np.concatenate([rng.permutation(np.flatnonzero((y == one) & part))[:n] for one in np.unique(y)])
            for part, n in ((known, shots), (~known, QUERIES))
        )
        for name, make in METHODS.items():
            answers = make().fit(X[support], y[support]).predict(X[queries])
            found[name].append(float((answers == y[queries]).mean()))
    rows = []
    for name, values in found.items():
        half = float(student.ppf(0.975, DRAWS - 1) * np.std(values, ddof=1) / DRAWS**0.5)
        row = {"encoder": encoder, "task": task, "ways": len(np.unique(y)), "shots": shots, "method": name}
        rows.append(row | {"accuracy": round(float(np.mean(values)), 4), "ci95": round(half, 4)})
        print(*rows[-1].values(), file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()
