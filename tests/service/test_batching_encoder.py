"""One encoder for many requests: computed in batches, in turns, each with its own errors."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_allclose
from service_client import Gated, queued

from fewshot.encoders.encoder import encode_valid
from fewshot.errors import EncoderMismatch
from fewshot.service.batching import DEADLINE, DISCONNECTED, ClientDisconnected, Overloaded
from fewshot.service.batching_encoder import BatchingEncoder, EncoderInfo


def shared(encoder, queue_size=1000, **settings):
    return BatchingEncoder(lambda: encoder, queue_size=queue_size, **settings)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def occupied(threads):
    """Share an encoder that computes a first image until its ``gate`` is opened."""
    made = []

    def share(encoder=None, **settings):
        encoder = encoder or Gated()
        pool = shared(encoder, **settings)
        made.append((encoder, pool, threads.submit(pool.encode, [png(RED)])))
        assert encoder.started.wait(20)
        return encoder, pool

    yield share
    for encoder, pool, first in made:
        encoder.gate.set()
        assert_allclose(first.result(), [[1, 0, 0]])
        pool.close()


def test_its_vectors_and_its_fingerprint_are_those_of_the_encoder():
    pool, alone = shared(FakeEncoder(name="colours")), FakeEncoder(name="colours")
    assert (pool.dim, pool.fingerprint, pool.spec) == (3, alone.fingerprint, {"name": "colours"})
    assert_allclose(pool.encode([png(RED), png(BLUE)]), alone.encode([png(RED), png(BLUE)]))
    assert pool.encode([]).shape == (0, 3)
    with pytest.raises(TypeError, match="sequence of images"):
        pool.encode(png(RED))
    pool.close()


def test_images_that_come_while_a_batch_is_computed_are_the_next_batch(threads, occupied):
    encoder, pool = occupied()
    colours = [(n, 0, 0) for n in range(20)]
    others = [threads.submit(pool.encode, [png(colour)]) for colour in colours]
    queued(pool, 20)
    encoder.gate.set()
    for colour, other in zip(colours, others, strict=True):
        assert_allclose(other.result(), [np.array(colour) / 255], atol=1e-6)
    assert encoder.batches == [1, 20]


def test_a_request_of_many_images_does_not_hold_up_those_of_few(threads, occupied):
    encoder, pool = occupied()
    many = threads.submit(pool.encode, [png((n, 0, 0)) for n in range(200)])
    queued(pool, 200)
    done = []
    few = threads.submit(lambda: done.append((pool.encode([png(GREEN)]).tolist(), many.done())))
    queued(pool, 201)
    encoder.gate.set()
    few.result()
    assert done == [([[0.0, 1.0, 0.0]], False)]
    assert_allclose(many.result()[:, 0], np.arange(200) / 255, atol=1e-6)
    assert encoder.batches[1] == 64  # 8 of the many, the one, and the many again
    assert sum(encoder.batches) == 202


def test_an_unreadable_image_is_an_error_of_its_own_request_only(threads, occupied):
    encoder, pool = occupied()
    bad = threads.submit(pool.encode_valid, [png(BLUE), b"no image", png(GREEN)])
    queued(pool, 3)
    good = threads.submit(pool.encode_valid, [png(RED), png(GREEN)])
    queued(pool, 5)
    encoder.gate.set()
    assert bad.result().kept.tolist() == [0, 2]
    assert_allclose(bad.result().vectors, [[0, 0, 1], [0, 1, 0]])
    ((place, error),) = bad.result().failed
    assert (place, error.reason.split(";")[0]) == (1, "not an image")
    assert good.result().failed == ()
    assert_allclose(good.result().vectors, [[1, 0, 0], [0, 1, 0]])


def test_failures_keep_their_positions_in_a_request_of_several_batches():
    pool = shared(FakeEncoder())
    images = [b"" if n in (3, 70, 149) else png((n, 0, 0)) for n in range(150)]
    encoded = pool.encode_valid(images)
    assert [place for place, _ in encoded.failed] == [3, 70, 149]
    assert encoded.kept.tolist() == [n for n in range(150) if n not in (3, 70, 149)]
    assert_allclose(encoded.vectors[:, 0], encoded.kept / 255, atol=1e-6)
    pool.close()


def test_an_image_that_the_encoder_fails_at_is_an_error_of_its_own_request_only(threads, occupied):
    class Fragile(Gated):
        def encode(self, images):
            images = list(images)
            vectors = super().encode(images)
            if any((vector == [0, 0, 1]).all() for vector in vectors):
                raise RuntimeError("no blue")
            return vectors

    encoder, pool = occupied(Fragile())
    bad, good = threads.submit(pool.encode, [png(BLUE)]), threads.submit(pool.encode, [png(GREEN)])
    queued(pool, 2)
    encoder.gate.set()
    assert_allclose(good.result(), [[0, 1, 0]])
    with pytest.raises(RuntimeError, match="no blue"):
        bad.result()
    assert_allclose(pool.encode([png(RED)]), [[1, 0, 0]])  # it goes on


def test_a_request_that_does_not_fit_into_the_queue_is_refused_and_background_work_waits(threads, occupied):
    encoder, pool = occupied(queue_size=10)
    waiting = threads.submit(pool.encode, [png(RED)] * 8)
    queued(pool, 8)
    DEADLINE.set(time.monotonic() + 60)
    with pytest.raises(Overloaded, match="8 images are queued already"):
        pool.encode([png(RED)] * 3)
    DEADLINE.set(None)
    background = threads.submit(pool.encode, [png(RED)] * 3)
    queued(pool, 11)
    encoder.gate.set()
    assert [len(job.result()) for job in (waiting, background)] == [8, 3]


def test_a_request_larger_than_the_queue_is_computed_when_the_queue_is_empty():
    pool = shared(FakeEncoder(), queue_size=2)
    DEADLINE.set(time.monotonic() + 60)
    assert len(pool.encode([png(RED)] * 5)) == 5
    DEADLINE.set(None)
    pool.close()


def test_what_is_not_computed_in_time_is_not_computed_at_all(threads, occupied):
    encoder, pool = occupied()

    def late():
        DEADLINE.set(time.monotonic() + 0.01)
        return pool.encode([png(RED)] * 5)

    with pytest.raises(Overloaded, match="not computed in time, and nothing was changed"):
        threads.submit(late).result()
    assert pool.queued == 0
    encoder.gate.set()
    pool.close()
    assert encoder.batches == [1]


def test_closing_it_computes_what_is_queued_and_accepts_no_more(threads, occupied):
    encoder, pool = occupied()
    second = threads.submit(pool.encode, [png(GREEN)])
    queued(pool, 1)
    closing = threads.submit(pool.close)
    encoder.gate.set()
    closing.result(20)
    assert_allclose(second.result(), [[0, 1, 0]])
    with pytest.raises(Overloaded, match="stopping"):
        pool.encode([png(RED)])


def test_parts_are_the_encoders_and_those_without_layers_are_known_without_loading():
    known = EncoderInfo("mean colour times 1.0, 0 more", 3, {"name": "colours"})
    pool = BatchingEncoder(FakeEncoder, known, queue_size=10)
    assert (pool.parts, pool.ready) == ((3,), False)
    encoder = FakeEncoder(name="colours")
    encoder.parts, encoder.spec["layers"] = (2, 1), [0]
    assert shared(encoder).parts == (2, 1)


def test_its_info_is_known_without_loading_and_another_encoder_is_refused():
    loads = []

    def load():
        loads.append(1)
        return FakeEncoder(times=2.0)

    known = EncoderInfo("mean colour times 1.0, 0 more", 3, {"name": "colours"})
    pool = BatchingEncoder(load, known, queue_size=10)
    assert (pool.dim, pool.fingerprint, pool.spec, pool.ready, loads) == (3, known.fingerprint, known.spec, False, [])
    with pytest.raises(EncoderMismatch, match="colours gives other vectors now"):
        pool.encode([png(RED)])


def test_on_batch_is_called_with_the_size_of_each_batch():
    sizes = []
    pool = BatchingEncoder(FakeEncoder, queue_size=10, on_batch=lambda images, seconds: sizes.append(images))
    pool.encode([png(RED)] * 3)
    pool.close()
    assert sizes == [3]


def test_images_of_a_disconnected_client_are_not_computed(threads, occupied):
    encoder, pool = occupied()
    gone = threading.Event()

    def leaving():
        DISCONNECTED.set(gone)
        return pool.encode([png(RED)] * 20)

    left = threads.submit(leaving)
    queued(pool, 20)
    stays = threads.submit(pool.encode, [png(GREEN)])
    queued(pool, 21)
    gone.set()
    assert pool.queued == 1
    encoder.gate.set()
    assert_allclose(stays.result(), [[0, 1, 0]])
    with pytest.raises(ClientDisconnected):
        left.result()
    assert encoder.batches == [1, 1]


class Laned(Gated):
    """An encoder for two threads at a time, each with 4 images at best."""

    lanes = (2, 4)

    def encode_here(self, images):
        return encode_valid(FakeEncoder(), images) if self.encode(images) is not None else None


def test_workers_of_an_encoder_with_lanes_share_the_queue(threads):
    encoder = Laned()
    pool = shared(encoder)
    few = threads.submit(pool.encode, [png((n, 0, 0)) for n in range(6)])
    while sum(encoder.batches) < 6:
        assert encoder.started.wait(20)
        time.sleep(0.001)
    assert encoder.batches == [3, 3]
    many = threads.submit(pool.encode, [png((n, 0, 0)) for n in range(9)])
    queued(pool, 9)
    encoder.gate.set()
    assert_allclose(few.result()[:, 0], np.arange(6) / 255, atol=1e-6)
    assert_allclose(many.result()[:, 0], np.arange(9) / 255, atol=1e-6)
    assert max(encoder.batches) <= 4
    assert sum(encoder.batches) == 15
    pool.close()
