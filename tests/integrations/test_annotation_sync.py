"""How annotations are applied: a few images at a time, the bad and the unreachable apart."""

from __future__ import annotations

import io
import threading
import time

import pytest
from fakes import BLUE, RED, FakeEncoder, classes, png
from label_studio_fakes import BOXES, CHOICES, annotation, boxed, chosen, created, task
from PIL import Image

from fewshot import ImageError
from fewshot.integrations import BadRequest, Unreachable, apply_pending, read_event, sync_with_export
from fewshot.integrations.label_studio import annotation_sync, task_images
from fewshot.integrations.label_studio.events import read_export

BOTH = BOXES.replace("</View>", CHOICES[len('<View><Image name="image" value="$image"/>') :])


class FakeClient:
    """A client of Label Studio: images by their addresses, an export, and addresses that do not answer."""

    def __init__(self, **known: bytes) -> None:
        self.known, self.dead, self.tasks = known, set(), []
        self.asked = []

    def image(self, address):
        self.asked.append(address)
        if address in self.dead:
            raise Unreachable(f"{address} does not answer", pause=float(len(address)))
        try:
            return self.known[address]
        except KeyError:
            raise ImageError(address, "the server answers 404") from None

    def export(self, project):
        return self.tasks


def record(writer, number, image, *results, config=CHOICES, **fields):
    body = created(annotation(number, number, *results, **fields), task(number, image), config=config)
    assert writer.record(read_event(body).annotations.records) == 1


def pending(writer):
    return [record.annotation for record in writer.pending(limit=99)]


# Time


def test_what_does_not_answer_is_not_tried_again_before_all_others_were(writer, project, monkeypatch):
    client, clock = FakeClient(r=png(RED)), [0.0]
    client.dead = {"d1", "d2", "d3", "d4"}
    for n, image in enumerate([*sorted(client.dead), "r"], start=1):
        record(writer, n, image, chosen("Red"))
    monkeypatch.setattr(annotation_sync, "_RECORDS_AT_ONCE", 2)
    monkeypatch.setattr(annotation_sync.time, "monotonic", lambda: clock[0])

    def one_stretch(after):
        found = apply_pending(writer, Passing(clock), Ticking(client, clock), after=after, until=clock[0] + 1)
        return found.annotations, found.last, found.out_of_time

    assert one_stretch(0) == (0, 2, True)
    assert one_stretch(2) == (0, 4, True)
    assert one_stretch(4) == (1, 5, True)
    assert one_stretch(5) == (0, 5, False)
    assert sorted(client.asked) == ["d1", "d2", "d3", "d4", "r"]
    assert pending(writer) == [1, 2, 3, 4]
    assert classes(project) == {"Red": 1}


class Ticking:
    """A client to which each image takes a second."""

    def __init__(self, client, clock):
        self.client, self.clock, self.lock = client, clock, threading.Lock()

    def image(self, address):
        with self.lock:
            self.clock[0] += 1
            return self.client.image(address)


class Passing(FakeEncoder):
    """An encoder that takes a second a batch."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def encode(self, images):
        self.clock[0] += 1
        return super().encode(images)


def test_what_needs_no_picture_does_not_take_the_place_of_what_comes_before_it(writer, project, monkeypatch):
    client, clock = FakeClient(r=png(RED)), [0.0]
    record(writer, 1, "r", chosen("Red"))
    record(writer, 2, "r", chosen("Red"), was_cancelled=True)
    monkeypatch.setattr(annotation_sync.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(writer, "apply", lambda *args, real=writer.apply: (real(*args), clock.__setitem__(0, 9.0)))
    found = apply_pending(writer, FakeEncoder(), client, until=1.0)
    assert (found.annotations, found.last, pending(writer)) == (2, 1, [])
    assert classes(project) == {"Red": 1}


def test_without_time_nothing_is_begun(writer):
    client = FakeClient(r=png(RED))
    record(writer, 1, "r", chosen("Red"))
    found = apply_pending(writer, FakeEncoder(), client, until=time.monotonic())
    assert (found.annotations, found.last, found.out_of_time, client.asked) == (0, 0, True, [])


def test_the_longest_pause_of_what_does_not_answer_is_reported(writer):
    client = FakeClient(r=png(RED))
    client.dead = {"a", "longer", "bb"}
    for n, image in enumerate(["a", "longer", "r", "bb"], start=1):
        record(writer, n, image, chosen("Red"))
    found = apply_pending(writer, FakeEncoder(), client)
    assert (found.annotations, str(found.unreachable), found.unreachable.pause) == (1, "longer does not answer", 6.0)
    assert (pending(writer), found.out_of_time) == ([1, 2, 4], False)
    client = FakeClient(a=png(RED), longer=png(RED), bb=png(RED))
    assert apply_pending(writer, FakeEncoder(), client).unreachable is None


# Room


@pytest.fixture
def stripes():
    """Eight stripes of different reds, each 2 x 4 pixels."""
    image = Image.new("RGB", (16, 4))
    for n in range(8):
        image.paste((255, n, 0), (2 * n, 0, 2 * n + 2, 4))
    image.save(out := io.BytesIO(), format="PNG")
    return out.getvalue()


STRIPES = [boxed("Red", 12.5 * n, 0, 12.5, 100, id_=str(n)) for n in range(8)]


class Counting(FakeEncoder):
    """An encoder that keeps how many images came together, and stops at a part."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.together, self.stop_at = [], stop_at

    def encode(self, images):
        images = list(images)
        self.together.append(len(images))
        if len(self.together) == self.stop_at:
            raise KeyboardInterrupt
        return super().encode(images)


def test_an_annotation_of_many_regions_is_applied_in_parts_and_deleted_whole(writer, project, stripes, monkeypatch):
    monkeypatch.setattr(task_images, "_BATCH_IMAGES", 3)
    encoder, client = Counting(), FakeClient(s=stripes, b=png(BLUE))
    record(writer, 1, "s", *STRIPES, config=BOXES)
    record(writer, 2, "b", chosen("Blue"))
    assert apply_pending(writer, encoder, client).annotations == 2
    assert (encoder.together, client.asked) == ([3, 3, 3], ["s", "b"])
    assert classes(project) == {"Red": 8, "Blue": 1}
    record(writer, 1, "s", *STRIPES[:5], config=BOXES, second=59)
    apply_pending(writer, encoder, client)
    assert classes(project) == {"Red": 5, "Blue": 1}
    writer.delete([1])
    assert classes(project) == {"Blue": 1}


def test_an_annotation_that_was_interrupted_is_applied_whole_the_next_time(writer, project, stripes, monkeypatch):
    monkeypatch.setattr(task_images, "_BATCH_IMAGES", 3)
    record(writer, 1, "s", *STRIPES, boxed("Red", 200, 0, 5, 5, id_="outside"), config=BOXES)
    with pytest.raises(KeyboardInterrupt):
        apply_pending(writer, Counting(stop_at=2), FakeClient(s=stripes))
    assert (classes(project), pending(writer)) == ({"Red": 3}, [1])
    found = apply_pending(writer, FakeEncoder(), FakeClient(s=stripes))
    assert classes(project) == {"Red": 8}
    assert [problem.partition(" (")[0] for problem in found.problems] == ["annotation 1: s, region outside: the region"]
    writer.delete([1])
    assert classes(project) == {}


def test_a_region_that_the_encoder_fails_at_leaves_the_others_of_its_annotation_too(writer, project, stripes):
    class Picky(FakeEncoder):
        def encode(self, images):
            images = list(images)
            if any(image.size == (4, 4) for image in images):
                raise RuntimeError("no fours")
            return super().encode(images)

    record(writer, 1, "s", *STRIPES[:2], boxed("Red", 0, 0, 25, 100, id_="wide"), config=BOXES)
    record(writer, 2, "s", *STRIPES[2:], config=BOXES)
    found = apply_pending(writer, Picky(), FakeClient(s=stripes))
    assert classes(project) == {"Red": 8}
    assert found.problems == ("annotation 1: s, region wide: it could not be learned (no fours)",)


def test_a_batch_of_crops_and_files_has_a_size(monkeypatch):
    # A whole file of 10 bytes, then crops of 2 x 4 pixels: 24 bytes each. Over 40 bytes are handed over at once.
    monkeypatch.setattr(task_images, "_BATCH_BYTES", 40)
    image = Image.new("RGB", (16, 4), RED)
    image.save(out := io.BytesIO(), format="PNG")
    wanted = [Wanted("whole"), *(Wanted("s", one) for one in STRIPES[:4]), Wanted("none")]
    seen = []
    for batch in task_images.fetch_images(wanted, FakeClient(whole=b"0123456789", s=out.getvalue())):
        seen.append([(position, getattr(image, "size", None) or type(image).__name__) for position, image in batch])
        kept = batch
    assert seen == [
        [(0, "bytes"), (1, (2, 4)), (2, (2, 4))],
        [(3, (2, 4)), (4, (2, 4))],
        [(5, "ImageError")],
    ]
    assert len(kept) == 1  # the same list, emptied each time


class Wanted:
    def __init__(self, image, region=None):
        self.image, self.region = image, region


# An export


@pytest.fixture
def exported(writer):
    """A client whose export holds two annotations, both applied."""
    client = FakeClient(r=png(RED), b=png(BLUE))
    client.tasks = [
        task(1, "r", annotations=[annotation(1, 1, chosen("Red"))]),
        task(2, "b", annotations=[annotation(2, 2, chosen("Blue"))]),
    ]
    assert sync_with_export(writer, client, 2, CHOICES).annotations == 2
    apply_pending(writer, FakeEncoder(), client)
    return client


def test_a_bad_annotation_of_an_export_is_skipped_reported_and_not_removed(writer, project, exported):
    exported.tasks[0]["annotations"][0]["updated_at"] = "noon"
    exported.tasks += [task(3, "b", annotations=[annotation(3, 3, chosen("Red"))])]
    found = sync_with_export(writer, exported, 2, CHOICES)
    assert found.annotations == 1
    (problem,) = found.problems
    assert problem.startswith("annotation 1 was skipped: updated_at must be a time with its zone")
    apply_pending(writer, FakeEncoder(), exported)
    assert classes(project) == {"Red": 2, "Blue": 1}


@pytest.mark.parametrize(
    "bad", [{"id": 9, "annotations": 7}, {"id": 9, "annotations": [{"id": "x"}]}, None], ids=["number", "text", "none"]
)
def test_where_an_annotation_has_no_id_nothing_is_removed(writer, project, exported, bad):
    exported.tasks = [bad, exported.tasks[1]]
    (problem,) = sync_with_export(writer, exported, 2, CHOICES).problems
    assert problem.startswith("annotation without an id was skipped: ")
    assert classes(project) == {"Red": 1, "Blue": 1}


def test_a_control_added_later_is_applied_from_recorded_annotations(writer, project, exported):
    exported.tasks[0]["annotations"][0]["result"].append(boxed("Blue", 0, 0, 50, 50))
    assert sync_with_export(writer, exported, 2, CHOICES).annotations == 0
    assert sync_with_export(writer, exported, 2, BOTH).annotations == 1
    apply_pending(writer, FakeEncoder(), exported)
    assert classes(project) == {"Red": 1, "Blue": 2}
    state = writer.state()
    assert sync_with_export(writer, exported, 2, BOTH).annotations == 0
    assert writer.state() == state


def test_what_is_no_export_is_refused_and_changes_nothing(writer, project, exported):
    exported.tasks = {"detail": "no"}
    with pytest.raises(BadRequest, match="an export is a list of tasks, not dict"):
        sync_with_export(writer, exported, 2, CHOICES)
    assert classes(project) == {"Red": 1, "Blue": 1}


def test_one_bad_annotation_of_many_that_come_together_leaves_the_others():
    good, bad = annotation(1, 7, chosen("Red")), annotation(2, 7, result=None)
    body = created([good, bad, annotation(3, 8)], [task(7, "x")], action="ANNOTATIONS_CREATED")
    found = read_event(body).annotations
    assert [record.annotation for record in found.records] == [1]
    assert found.problems() == [
        "annotation 2 was skipped: annotation 2 must have a result, and its task data",
        "annotation 3 was skipped: annotation 3 comes without its task 8",
    ]


def test_what_is_nested_without_end_is_one_bad_annotation():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    tasks = [
        task(1, "x", annotations=[annotation(1, 1, boxed("Red", 0, 0, 9, 9, original_width=deep)), annotation(2, 1)])
    ]
    found = read_export(tasks, BOXES)
    assert [record.annotation for record in found.records] == [2]
    assert found.skipped == {1: "annotation 1 is nested too deep"}
