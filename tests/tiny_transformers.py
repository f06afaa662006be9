"""Tiny random checkpoints of the transformers family, and sounds to embed with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

WORDS = "where is my card parcel lost the a not here yet weather like rain sun play music song stop now".split()
RATE = 16_000


def sentence_folder(folder: Path, *, seed: int = 0, limit: int = 32) -> str:
    """Save a two-layer BERT with a mean over tokens as sentence-transformers does."""
    pytest.importorskip("sentence_transformers", reason="needs the extra text")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    plain = folder / "bert"
    plain.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = list(dict.fromkeys(vocabulary))
    (plain / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab={word: n for n, word in enumerate(vocabulary)}).save_pretrained(plain)
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.5, **size)
        BertModel(config).save_pretrained(plain)
    network = Transformer(str(plain), max_seq_length=limit)
    SentenceTransformer(modules=[network, Pooling(16)], device="cpu").save(str(folder / "model"))
    return str(folder / "model")


def audio_folder(folder: Path, kind: str) -> str:
    """Save a tiny "ast", "clap", "wav2vec2", "hubert" or "whisper" with its feature extractor."""
    pytest.importorskip("transformers", reason="needs the extra audio")
    import torch
    import transformers as hf

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    waves = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    waves |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, **size}
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "ast":
            extractor = hf.ASTFeatureExtractor(num_mel_bins=16, max_length=128)
            config = hf.ASTConfig(
                num_mel_bins=16, max_length=128, patch_size=8, frequency_stride=8, time_stride=8, **size
            )
            model = hf.ASTModel(config)
        elif kind == "clap":
            extractor = hf.ClapFeatureExtractor(feature_size=16, max_length_s=1, fft_window_size=256, hop_length=240)
            extractor.truncation = "rand_trunc"
            audio = {"num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "depths": [1, 1]}
            audio |= {"num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "window_size": 4}
            audio |= {"hidden_size": 16, "num_classes": 3, "projection_dim": 8}
            text = {"vocab_size": 20, **size, "projection_dim": 8}
            model = hf.ClapModel(hf.ClapConfig(audio_config=audio, text_config=text, projection_dim=8))
        elif kind == "whisper":
            extractor = hf.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
            depth = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
            wide = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_attention_heads": 2}
            ids = {
                "vocab_size": 20,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "decoder_start_token_id": 1,
            }
            config = hf.WhisperConfig(num_mel_bins=16, max_source_positions=100, **depth, **wide, **ids)
            model = hf.WhisperModel(config)
        else:
            extractor = hf.Wav2Vec2FeatureExtractor(return_attention_mask=False)
            config, network = {
                "wav2vec2": (hf.Wav2Vec2Config, hf.Wav2Vec2Model),
                "hubert": (hf.HubertConfig, hf.HubertModel),
            }[kind]
            model = network(config(**waves))
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


def chirp(seconds: float = 0.5, *, low: float = 200.0, high: float = 800.0, rate: int = RATE) -> tuple[np.ndarray, int]:
    """Samples of a tone that rises, and their rate."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (low * time + (high - low) * time**2 / (2 * max(seconds, 1e-9)))
    return (0.3 * np.sin(phase)).astype(np.float32), rate
