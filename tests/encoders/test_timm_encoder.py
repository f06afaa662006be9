"""Frozen networks: any timm name, the same vector whatever the company, one clear line when it cannot be had."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from torch import nn

from fewshot import EncoderNotFound, ImageError, PrototypeClassifier, TimmEncoder, load_encoder
from fewshot.encoders import thread_count, timm_network
from fewshot.encoders.batch_norm_folding import fuse_batch_norms
from fewshot.encoders.bfloat16 import round_cancelling
from fewshot.encoders.encoder import encode_valid
from fewshot.encoders.preprocessing import data_config

SMALL = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (7, 6, 8, 3), dtype=np.uint8)
    return [Image.fromarray(c).resize((80 + 9 * n, 70 + 5 * n), Image.Resampling.BICUBIC) for n, c in enumerate(coarse)]


@pytest.fixture
def _two_workers():
    """Encoders work on as many batches at once as torch has threads; the tests' torch has one (conftest.py)."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def _thin(monkeypatch):
    """VGG, DaViT and a LambdaNetwork as timm builds them, with few channels: as they are they take seconds."""
    monkeypatch.setitem(timm.models.vgg.cfgs, "vgg11", [8, "M", 8, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"])
    lambdas = timm.models.byoanet.model_cfgs
    whole = lambdas["lambda_resnet26t"]
    blocks = tuple(replace(block, d=1, c=64, s=2) for block in (whole.blocks[0], whole.blocks[-1]))
    monkeypatch.setitem(lambdas, "lambda_resnet26t", replace(whole, blocks=blocks, stem_chs=16))
    few = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128), "num_heads": (1, 2, 4, 8)}
    build = timm.models.davit._create_davit
    monkeypatch.setattr(timm.models.davit, "_create_davit", lambda *names, **more: build(*names, **{**more, **few}))


@pytest.fixture
def random_encoder():
    def make(name=SMALL, **settings):
        torch.manual_seed(0)
        encoder = TimmEncoder(name, pretrained=False, **settings)
        _ = encoder.loaded
        return encoder

    return make


@pytest.fixture(scope="module")
def mobilenet(shared):
    return str(shared / "weights" / "mobilenetv2_100.tf_in1k")


ARCHITECTURES = {
    "vgg11": 4096,
    "resnet18": 512,
    "dla46_c": 256,
    "mobilenetv3_small_050": 1024,
    "test_vit.r160_in1k": 64,
    "test_convnext.r160_in1k": 64,
    "test_resnet.r160_in1k": 96,
}


@pytest.mark.usefixtures("_two_workers", "_thin")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_picture_embeds_the_same_alone_in_a_batch_and_after_another_call(name, random_encoder, pictures):
    encoder = random_encoder(name, precision="float32", batch_size=3)
    together = encoder.encode(pictures[:4])
    assert together.shape == (4, ARCHITECTURES[name]) == (4, encoder.dim)
    assert together.dtype == np.float32
    encoder.encode(pictures[4:5])
    tolerance = 1e-4 * np.abs(together).max()
    assert_allclose(encoder.encode(pictures[2:3])[0], together[2], atol=tolerance)
    assert np.abs(together[0] - together[1]).max() > 10 * tolerance  # else the line above says nothing


def test_a_network_left_in_training_mode_is_noticed(random_encoder, pictures):
    encoder = random_encoder(precision="float32")
    fresh = timm.create_model(SMALL, num_classes=0).train()
    x = torch.rand(4, 3, 96, 96)
    assert (fresh(x)[0] - fresh(x[:1])[0]).abs().max() > 1e-2  # BatchNorm reads its batch
    assert not encoder.loaded.network.training
    assert not any(p.requires_grad for p in encoder.loaded.network.parameters())


def test_pictures_are_prepared_exactly_as_the_networks_own_configuration_says(random_encoder, pictures):
    encoder = random_encoder(precision="float32")
    torch.manual_seed(0)
    plain = timm.create_model(SMALL, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    with torch.inference_mode():
        wanted = plain(torch.stack([transform(p) for p in pictures])).numpy()
    assert_allclose(encoder.encode(pictures), wanted, atol=1e-4 * np.abs(wanted).max())


def test_preparation_follows_the_configuration_for_other_crops(pictures):
    from fewshot.encoders.preprocessing import preparation

    for crop_mode, crop_pct, size in (
        ("squash", 1.0, (3, 64, 64)),
        ("border", 0.9, (3, 48, 64)),
        ("center", 0.8, (3, 64, 64)),
    ):
        config = {
            "input_size": size, "crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": "bicubic",
            "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4),
        }  # fmt: skip
        wanted = timm.data.create_transform(**config, is_training=False)(pictures[0])
        pixels = torch.from_numpy(preparation(config)(pictures[0]).copy()).permute(2, 0, 1).float() / 255
        normalised = (pixels - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
        assert_allclose(normalised, wanted, atol=1e-6)


def test_a_layer_is_read_through_timms_intermediates(random_encoder, pictures):
    torch.manual_seed(0)
    plain = timm.create_model(SMALL, num_classes=0).eval()
    encoder = random_encoder(layer=2, precision="float32")
    with torch.inference_mode():
        loaded = encoder.loaded
        x = torch.from_numpy(np.stack([loaded.prepare(p) for p in pictures])).permute(0, 3, 1, 2).float() / 255
        x = (x - loaded.mean.view(3, 1, 1)) / loaded.std.view(3, 1, 1)
        maps = plain.forward_intermediates(x, indices=[2], intermediates_only=True)[0]
    tolerance = 1e-4 * float(maps.abs().max())
    assert_allclose(encoder.encode(pictures), maps.mean((2, 3)), atol=tolerance)
    peak = random_encoder(layer=2, pool="max", precision="float32").encode(pictures)
    assert_allclose(peak, maps.amax((2, 3)), atol=tolerance)
    by_name = random_encoder(layer="layer2", precision="float32").encode(pictures)
    assert_allclose(by_name, maps.mean((2, 3)), atol=tolerance)


def test_a_transformers_class_token_and_patches_can_be_taken(random_encoder, pictures):
    name = "test_vit.r160_in1k"
    cls, avg = (random_encoder(name, layer=-1, pool=p, precision="float32").encode(pictures) for p in ("cls", "avg"))
    both = random_encoder(name, layer=-1, pool="cls+avg", precision="float32").encode(pictures)
    assert np.abs(cls - avg).max() > 1e-3
    assert_allclose(both, np.hstack([cls, avg]), atol=1e-5)
    own = random_encoder(name, precision="float32").encode(pictures)
    assert_allclose(cls, own, atol=1e-4 * np.abs(own).max())  # the last block's normalised class token is its embedding


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 99}, "layer 99 does not exist; the layers are 0 "),
        ({"layer": "layer9"}, "no layer 'layer9'; the layers are 0 "),
        ({"pool": "cls"}, "pool='cls' needs a class token"),
        ({"pool": "mean"}, "pool must be one of 'avg', 'max', 'cls', 'cls\\+avg', not 'mean'"),
        ({"layers": [99]}, "layer 99 does not exist; the layers are 0 "),
        ({"layers": ["layer9"]}, "no layer 'layer9'; the layers are 0 "),
        ({"layers": []}, "layers is empty; the layers are 0 "),
        ({"layers": "all"}, "layers must be 'auto' or a list of blocks, not 'all'; the layers are 0 "),
        ({"layers": [1.5]}, r"layers must be 'auto' or a list of blocks, not \[1.5\]; the layers are 0 "),
        ({"layers": 2}, "layers must be 'auto' or a list of blocks, not 2; the layers are 0 "),
        ({"layers": "auto", "layer": 1}, "layer=1 replaces: leave out one or the other"),
        ({"layers": "auto", "pool": "max"}, "pool='max' replaces: leave out one or the other"),
        ({"tta": "flip"}, "tta must be True or False, not 'flip'"),
        ({"precision": "float16"}, "precision must be one of 'float32', 'bfloat16', not 'float16'"),
    ],
)
def test_a_wrong_setting_is_refused_naming_those_there_are(settings, message):
    with pytest.raises(ValueError, match=message):
        _ = TimmEncoder(SMALL, pretrained=False, **settings).dim


def directions(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# What the layers' maps have as channels: of "auto" at a quarter, half and three quarters of the way.
LAYERS = {SMALL: (96, 32, 48, 192), "test_vit.r160_in1k": (64, 64, 64, 64), "test_convnext.r160_in1k": (64, 32, 48)}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_appended_to_the_embedding_in_one_pass_each_part_of_one_length(name, random_encoder, pictures):
    alone, encoder = (random_encoder(name, precision="float32", **how) for how in ({}, {"layers": "auto"}))
    vectors = encoder.encode(pictures)
    assert encoder.parts == LAYERS[name]
    assert encoder.dim == sum(LAYERS[name]) == vectors.shape[1]
    assert (alone.parts, vectors.dtype) == ((alone.dim,), np.float32)
    own, *others = np.split(vectors, np.cumsum(encoder.parts)[:-1], axis=1)
    assert_allclose(own, directions(alone.encode(pictures)), atol=1e-4)
    numbers = encoder.loaded.network  # as timm numbers them
    for number, part in zip(timm_network.layer_numbers(numbers, "auto"), others, strict=True):
        assert_allclose(np.linalg.norm(part, axis=1), 0.1, rtol=1e-5)
        if "vit" not in name:  # whose blocks `layer` reads behind a norm
            inner = random_encoder(name, layer=number, precision="float32").encode(pictures)
            assert_allclose(part, 0.1 * directions(inner), atol=1e-4)


def test_layers_are_given_by_number_or_name_in_any_order(random_encoder, pictures):
    one, other = (random_encoder(layers=layers, precision="float32") for layers in ([-2, "layer1"], (1, 3)))
    assert_array_equal(one.encode(pictures[:2]), other.encode(pictures[:2]))
    assert one.fingerprint == other.fingerprint != random_encoder().fingerprint


def test_flip_augmentation_is_the_mean_of_the_directions_of_an_image_and_its_mirror_image(random_encoder, pictures):
    plain, encoder = (random_encoder(precision="float32", tta=tta) for tta in (False, True))
    square = [picture.resize((160, 160)) for picture in pictures]
    mirrored = plain.encode([picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in square])
    wanted = (directions(plain.encode(square)) + directions(mirrored)) / 2
    assert_allclose(encoder.encode(square), wanted, atol=1e-4)
    assert np.abs(wanted - directions(plain.encode(square))).max() > 1e-3  # else the line above says nothing
    both = random_encoder(precision="float32", tta=True, layers=[1]).encode(square)
    assert_allclose(both[:, : plain.dim], wanted, atol=1e-4)


@pytest.mark.usefixtures("_two_workers")
@pytest.mark.parametrize("settings", [{"layers": "auto"}, {"tta": True}, {"layers": [1], "tta": True}])
def test_with_layers_and_flips_too_a_picture_embeds_the_same_alone_and_in_a_batch(settings, random_encoder, pictures):
    encoder = random_encoder(precision="float32", batch_size=3, **settings)
    together = encoder.encode(pictures)
    assert_allclose(encoder.encode(pictures[2:3])[0], together[2], atol=1e-5)
    assert_allclose(encoder.encode_here(pictures[2:3]).vectors[0], together[2], atol=1e-5)


def test_the_spec_makes_an_encoder_with_layers_and_flips_again():
    encoder = load_encoder("pocket", layers=(np.int64(1), "stages.2"), tta=True)
    assert encoder.spec == {"name": "pocket", "layer": None, "pool": None, "layers": [1, "stages.2"], "tta": True}
    assert load_encoder(**encoder.spec).fingerprint == encoder.fingerprint
    json.dumps(encoder.spec)
    prints = {
        load_encoder("pocket", **how).fingerprint for how in ({}, {"layers": [1]}, {"layers": [2]}, {"tta": True})
    }
    assert len(prints | {encoder.fingerprint}) == 5
    assert load_encoder("pocket").spec == {"name": "pocket", "layer": None, "pool": None}


def test_fingerprints_tell_weights_layers_pools_and_preprocessing_apart(random_encoder, monkeypatch):
    first = random_encoder()
    assert first.fingerprint == random_encoder().fingerprint == random_encoder(precision="bfloat16").fingerprint
    torch.manual_seed(1)
    others = [TimmEncoder(SMALL, pretrained=False), random_encoder(layer=2), random_encoder(layer=2, pool="max")]
    config = data_config(first.loaded.network)
    monkeypatch.setattr("fewshot.encoders.timm_encoder.data_config", lambda *_: {**config, "crop_pct": 0.5})
    others.append(random_encoder())
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.usefixtures("_two_workers")
def test_in_a_batch_a_bad_picture_is_listed_and_the_others_go_on(random_encoder, pictures, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    batch = [pictures[0], tmp_path / "bad.jpg", pictures[1], tmp_path / "none.jpg"]
    encoder = random_encoder(precision="float32")
    for encoded in (encoder.encode_valid(batch), encode_valid(OnlyEncode(encoder), batch), encoder.encode_here(batch)):
        assert encoded.kept.tolist() == [0, 2]
        assert_allclose(encoded.vectors, encoder.encode(pictures[:2]), atol=1e-4)
        assert [(n, error.source, error.reason.partition(";")[0]) for n, error in encoded.failed] == [
            (1, str(tmp_path / "bad.jpg"), "not an image"),
            (3, str(tmp_path / "none.jpg"), "no such file"),
        ]
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image.*\(image 1 of 4; 1 more of the 4 failed too\)"):
        encoder.encode(batch)


@pytest.mark.usefixtures("_two_workers")
def test_an_encoder_says_how_many_threads_it_can_serve_and_with_how_many_pictures_each(random_encoder):
    assert random_encoder(device="cpu").lanes == (2, 15)  # of 160 x 160 pixels, 15 are as many as 8 of 224 x 224
    assert random_encoder(device="cpu", batch_size=4).lanes == (2, 4)


class OnlyEncode:
    """An encoder of someone else's: the protocol and no more."""

    def __init__(self, encoder):
        self.encode, self.dim, self.fingerprint = encoder.encode, encoder.dim, encoder.fingerprint


def test_a_network_without_a_norm_for_its_inner_blocks_gives_them_all_the_same(random_encoder, pictures):
    assert random_encoder("hiera_tiny_224", layer=0, precision="float32").encode(pictures[:1]).shape == (1, 96)


def test_bfloat16_is_not_taken_unasked_where_it_spoils_the_features(random_encoder, pictures, monkeypatch):
    monkeypatch.setattr("fewshot.encoders.timm_encoder.best_precision", lambda _: "bfloat16")
    exact = random_encoder(precision="float32")
    assert random_encoder().resolved_precision == "bfloat16"
    monkeypatch.setattr("fewshot.encoders.timm_encoder._FAITHFUL", 1.1)  # no network is this faithful
    careful = random_encoder()
    assert careful.resolved_precision == "float32"
    assert careful.fingerprint == exact.fingerprint
    assert_allclose(careful.encode(pictures), exact.encode(pictures), atol=1e-5)
    assert random_encoder(precision="bfloat16").resolved_precision == "bfloat16"


def test_no_pictures_give_no_vectors(random_encoder):
    assert random_encoder().encode([]).shape == (0, 96)


def test_a_single_path_is_refused_where_a_sequence_is_wanted(random_encoder):
    with pytest.raises(TypeError, match=r"give \[image\], not str"):
        random_encoder().encode("cat.jpg")


def test_it_is_a_scikit_learn_transformer(random_encoder, pictures):
    pipeline = make_pipeline(random_encoder(), PrototypeClassifier()).fit(pictures[:4], ["a", "a", "b", "c"])
    assert pipeline.predict(pictures[2:4]).tolist() == ["b", "c"]
    assert clone(pipeline).fit(pictures[:2], ["x", "y"]).predict(pictures[:1]) == ["x"]


def test_a_clone_shares_the_network_until_a_parameter_changes(random_encoder):
    encoder = random_encoder()
    twin = clone(encoder)
    assert twin is not encoder
    assert twin.loaded is encoder.loaded
    assert twin.set_params(layer=1).dim == 32 != encoder.dim


def test_an_attribute_set_directly_changes_vectors_size_and_fingerprint_together(pictures):
    encoder = load_encoder("pocket", device="cpu", precision="float32")
    encoder.layer = 1
    wanted = load_encoder("pocket", device="cpu", precision="float32", layer=1)
    assert (encoder.dim, encoder.fingerprint) == (wanted.dim, wanted.fingerprint)
    assert_array_equal(encoder.encode(pictures[:1]), wanted.encode(pictures[:1]))


def test_a_pickle_holds_the_name_and_not_the_weights(pictures):
    encoder = load_encoder("pocket", precision="float32")
    data = pickle.dumps(encoder)
    assert len(data) < 2000
    assert_array_equal(pickle.loads(data).encode(pictures), encoder.encode(pictures))


def _shifted(network):
    """Another network of the same architecture: every convolution 1 % larger."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.01)
    return network


def test_an_encoder_with_another_network_gives_that_networks_features_and_leaves_the_first_alone(pictures):
    first = load_encoder("pocket", precision="float32")
    before = first.encode(pictures)
    network = _shifted(first.exact_network())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        wanted = network(torch.stack([transform(picture) for picture in pictures])).numpy()
    second = first.with_network(network)
    _shifted(network)  # the encoder has a copy
    assert_allclose(second.encode(pictures), wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(wanted - before).max() > 0.01 * np.abs(wanted).max()
    assert_array_equal(first.encode(pictures), before)
    assert second.fingerprint != first.fingerprint
    assert second.dim == first.dim
    assert first.with_network(first.exact_network()).fingerprint == first.fingerprint
    assert (first.spec["name"], second.spec) == ("pocket", {})


def test_a_given_network_stays_through_clones_parameters_copies_and_pickles_but_not_another_name(pictures):
    first = load_encoder("pocket", precision="float32")
    second = first.with_network(_shifted(first.exact_network()))
    for twin in (clone(second), copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
        assert twin.fingerprint == second.fingerprint != first.fingerprint
        assert_array_equal(twin.encode(pictures), second.encode(pictures))
        assert twin.with_network(twin.exact_network()).fingerprint == second.fingerprint
    assert clone(second).set_params(precision="bfloat16").fingerprint == second.fingerprint
    assert clone(second).set_params(name="test_resnet.r160_in1k", pretrained=False).dim == 96
    second.name = "test_resnet.r160_in1k"
    second.pretrained = False
    assert second.dim == 96


def test_the_exact_network_is_not_had_where_random_weights_would_be_drawn_anew(random_encoder):
    encoder = random_encoder(precision="float32")
    with pytest.raises(ValueError, match=r"'test_resnet.r160_in1k' are not those .*give it to with_network"):
        encoder.exact_network()
    given = encoder.with_network(timm.create_model(SMALL, num_classes=0))
    assert given.exact_network().training is False


def test_fusing_batch_norms_changes_no_feature():
    torch.manual_seed(0)
    for name in ("test_resnet", "mobilenetv3_small_050", "densenet121"):
        plain = timm.create_model(name, num_classes=0).eval()
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 0.5, 2)
        x = torch.rand(2, 3, 96, 96)
        with torch.inference_mode():
            wanted = plain(x)
            assert fuse_batch_norms(plain, x[:1]) > 5
            assert_allclose(plain(x), wanted, atol=1e-4 * float(wanted.abs().max()))


def test_a_norm_is_not_folded_where_the_layer_asked_for_lies_before_it(pictures, monkeypatch):
    def shifted(name, *, pretrained):
        made = timm_network.load_network(name, pretrained=pretrained)
        made.bn1.running_mean.fill_(1.0)
        return made

    monkeypatch.setattr("fewshot.encoders.timm_encoder.load_network", shifted)
    torch.manual_seed(0)
    plain = timm.create_model("ghostnet_050", pretrained=False, num_classes=0).eval()  # layer 0 is conv_stem alone
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    with torch.inference_mode():
        wanted = plain.conv_stem(transform(pictures[0])[None]).mean((2, 3)).numpy()
    torch.manual_seed(0)
    encoder = TimmEncoder("ghostnet_050", pretrained=False, layer=0, device="cpu", precision="float32")
    assert_allclose(encoder.encode(pictures[:1]), wanted, atol=1e-5)


def test_a_norm_is_not_folded_where_something_else_reads_the_convolution():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) + y).mean((2, 3))

    torch.manual_seed(0)
    net = Shared().eval()
    net.norm.running_mean.fill_(1.0)
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        wanted = net(x)
        assert fuse_batch_norms(net, x) == 0
        assert_array_equal(net(x), wanted)


def test_a_convolution_read_by_two_norms_is_put_back_as_it_was():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.left, self.right = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return torch.cat([self.left(y), self.right(y)], dim=1).mean((2, 3))

    torch.manual_seed(0)
    net = Forked().eval()
    net.left.running_mean.fill_(1.0)
    net.right.running_var.fill_(4.0)
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        wanted = net(x)
        assert fuse_batch_norms(net, x) == 0
        assert_array_equal(net(x), wanted)


def test_rounding_cancels_the_errors_of_each_filter():
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    rounded = round_cancelling(weight)
    assert_array_equal(rounded, rounded.bfloat16().float())
    assert (rounded - weight).abs().max() <= 2**-7 * weight.abs().max()
    plain = (weight.bfloat16().float() - weight).sum((1, 2, 3)).abs().max()
    assert (rounded - weight).sum((1, 2, 3)).abs().max() < plain / 10


# DaViT reads its convolutions' kernel_size; LambdaNetworks hold 3-d convolutions, which know no channels_last.
@pytest.mark.usefixtures("_thin")
@pytest.mark.parametrize("name", ["davit_tiny", "lambda_resnet26t"])
def test_networks_with_uncommon_convolutions_give_what_timm_gives_in_both_precisions(name, random_encoder, pictures):
    torch.manual_seed(0)
    plain = timm.create_model(name, pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    with torch.inference_mode():
        wanted = plain(torch.stack([transform(picture) for picture in pictures[:1]])).numpy()
    for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.03)):
        torch.manual_seed(0)
        found = TimmEncoder(name, pretrained=False, device="cpu", precision=precision).encode(pictures[:1])
        assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("device", ["nonsense", "mps:7"])
def test_a_device_that_cannot_be_used_is_one_clear_line(device):
    with pytest.raises(ValueError, match=rf"device '{device}' cannot be used here \(.*\); try cpu, or leave it out"):
        load_encoder("pocket", device=device)


def test_an_older_torch_that_cannot_tell_counts_as_without_bfloat16(monkeypatch):
    for name in ("get_capabilities", "_is_avx512_bf16_supported"):  # torch 2.4 has neither
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert load_encoder("pocket", device="cpu").resolved_precision == "float32"


@pytest.mark.data
def test_bfloat16_vectors_point_where_float32_vectors_do(mobilenet, photos, monkeypatch):
    files = sorted((photos / "new-photos").rglob("*.jpg"))
    exact, quick = (load_encoder(mobilenet, precision=p).encode(files) for p in ("float32", "bfloat16"))
    cosine = (exact * quick).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(quick, axis=1)
    assert cosine.mean() > 0.996
    monkeypatch.setattr("fewshot.encoders.bfloat16.round_cancelling", lambda weight: weight)
    monkeypatch.setattr("fewshot.encoders.bfloat16._float_bias_convolutions", lambda _: [])
    plain = load_encoder(mobilenet, precision="bfloat16").encode(files)
    cosine = (exact * plain).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(plain, axis=1)
    assert cosine.mean() < 0.996  # rounding weights and biases one by one would not do


@pytest.mark.data
@pytest.mark.parametrize("name", ["mobilenetv2_100.tf_in1k", "mobilenetv1_100.tf_in1k"])
def test_real_weights_from_a_folder_give_what_timm_gives(shared, name, photos):
    folder = shared / "weights" / name
    files = sorted((photos / "new-photos").rglob("*.jpg"))
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    with torch.inference_mode():
        wanted = plain(torch.stack([transform(Image.open(f).convert("RGB")) for f in files])).numpy()
    found = load_encoder(str(folder), precision="float32").encode(files)
    assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.data
def test_one_fingerprint_wherever_the_folder_lies_and_another_for_one_changed_weight(mobilenet, tmp_path):
    from safetensors.torch import load_file, save_file

    twin = tmp_path / "copy"
    twin.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{mobilenet}/{name}", twin / name)
    first = load_encoder(mobilenet, precision="float32").fingerprint
    assert load_encoder(str(twin), precision="float32").fingerprint == first
    weights = load_file(twin / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, twin / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(str(twin), precision="float32").fingerprint != first


def test_the_bundled_encoder_loads_offline_and_is_small():
    from fewshot.encoders.bundled_network import POCKET

    encoder = load_encoder()
    assert encoder.encode([np.zeros((64, 64), np.uint8)]).shape == (1, encoder.dim)
    assert sum(file.stat().st_size for file in POCKET.iterdir()) <= 6_000_000


def test_a_misspelt_name_gets_its_close_matches():
    with pytest.raises(EncoderNotFound, match=r"'resnte50'; did you mean resnet50.*local-dir:PATH"):
        load_encoder("resnte50")


def test_a_name_like_no_other_gets_the_command_that_lists_them():
    with pytest.raises(EncoderNotFound, match=r"'zzzzqqqq'; list them with: fewshot encoders \[PATTERN\]\. A folder"):
        load_encoder("zzzzqqqq")


def test_an_unknown_tag_gets_those_there_are():
    with pytest.raises(EncoderNotFound, match=r"'resnet18.mine'; those known to timm: .*resnet18\.a1_in1k"):
        load_encoder("resnet18.mine")


def test_a_folder_without_weights_says_what_it_should_hold(tmp_path):
    with pytest.raises(EncoderNotFound, match=r"holds config\.json and model\.safetensors"):
        load_encoder(str(tmp_path))
    with pytest.raises(EncoderNotFound, match=r"holds config\.json and model\.safetensors"):
        load_encoder("local-dir:nowhere")


def test_names_are_listed_by_part_or_pattern():
    assert "vit_small_patch14_dinov2.lvd142m" in timm_network.list_encoders("dinov2")
    assert timm_network.list_encoders("resnet18.a[123]_in1k") == [
        "resnet18.a1_in1k",
        "resnet18.a2_in1k",
        "resnet18.a3_in1k",
    ]
    assert timm_network.list_encoders("pock")[0] == "pocket"


def test_encoding_uses_the_threads_set_since_the_encoder_was_loaded_and_changes_the_number_for_nobody(
    random_encoder, pictures
):
    seen = []

    def new_thread_has():
        with ThreadPoolExecutor(1) as pool:  # torch starts a new thread with the number last set anywhere
            return pool.submit(thread_count).result()

    def watched_pictures():
        for picture in pictures:
            yield picture
            seen.append((torch.get_num_threads(), new_thread_has()))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        encoder = random_encoder(batch_size=1)
        for number in (2, 1):
            torch.set_num_threads(number)
            encoder.encode(watched_pictures())
            with ThreadPoolExecutor(1) as pool:
                pool.submit(encoder.encode_here, pictures[:1]).result()
            assert set(seen) == {(number, number)} == {(torch.get_num_threads(), new_thread_has())}
            seen.clear()
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(pictures):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu, gpu = (load_encoder("pocket", device=d, precision="float32").encode(pictures) for d in ("cpu", "cuda"))
    assert_allclose(gpu, cpu, atol=1e-2 * np.abs(cpu).max())


def test_file_objects_and_bytes_embed_as_their_file_does(random_encoder, pictures, tmp_path):
    pictures[0].save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    a, b, c, d = random_encoder(precision="float32").encode([tmp_path / "a.png", data, io.BytesIO(data), pictures[0]])
    for other in (b, c, d):
        assert_allclose(other, a, atol=1e-5)
