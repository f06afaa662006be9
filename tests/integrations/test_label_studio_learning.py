"""How annotations are learned: a few pictures at a time, the bad and the unreachable apart."""

from __future__ import annotations

import io
import threading
import time

import pytest
from fakes import BLUE, RED, FakeEncoder, classes, png
from label_studio_fakes import BOXES, CHOICES, annotation, boxed, chosen, created, task
from PIL import Image

from fewshot import ImageError
from fewshot.integrations.label_studio import learning, task_images
from fewshot.integrations.label_studio.events import BadRequest, notes_of_export, read_event
from fewshot.integrations.label_studio.learning import learn, relearn
from fewshot.integrations.label_studio.server import Unreachable

BOTH = BOXES.replace("</View>", CHOICES[len('<View><Image name="image" value="$image"/>') :])


class Desk:
    """Stands for Label Studio: its pictures by their addresses, its export, and what does not answer."""

    def __init__(self, **known: bytes) -> None:
        self.known, self.dead, self.tasks = known, set(), []
        self.asked = []

    def picture(self, address):
        self.asked.append(address)
        if address in self.dead:
            raise Unreachable(f"{address} does not answer", pause=float(len(address)))
        try:
            return self.known[address]
        except KeyError:
            raise ImageError(address, "the server answers 404") from None

    def export(self, project):
        return self.tasks


def teach(lessons, number, image, *results, config=CHOICES, **fields):
    body = created(annotation(number, number, *results, **fields), task(number, image), config=config)
    assert lessons.note(read_event(body).notes.read) == 1


def waiting(lessons):
    return [note.annotation for note in lessons.waiting(limit=99)]


# Time


def test_what_does_not_answer_is_not_tried_again_before_all_others_were(lessons, project, monkeypatch):
    desk, clock = Desk(r=png(RED)), [0.0]
    desk.dead = {"d1", "d2", "d3", "d4"}
    for n, image in enumerate([*sorted(desk.dead), "r"], start=1):
        teach(lessons, n, image, chosen("Red"))
    monkeypatch.setattr(learning, "_NOTES_AT_ONCE", 2)
    monkeypatch.setattr(learning.time, "monotonic", lambda: clock[0])

    def one_stretch(after):
        found = learn(lessons, Passing(clock), Ticking(desk, clock), after=after, until=clock[0] + 1)
        return found.annotations, found.after, found.more

    assert one_stretch(0) == (0, 2, True)
    assert one_stretch(2) == (0, 4, True)
    assert one_stretch(4) == (1, 5, True)
    assert one_stretch(5) == (0, 5, False)
    assert sorted(desk.asked) == ["d1", "d2", "d3", "d4", "r"]
    assert waiting(lessons) == [1, 2, 3, 4]
    assert classes(project) == {"Red": 1}


class Ticking:
    """A desk where each picture takes a second."""

    def __init__(self, desk, clock):
        self.desk, self.clock, self.lock = desk, clock, threading.Lock()

    def picture(self, address):
        with self.lock:
            self.clock[0] += 1
            return self.desk.picture(address)


class Passing(FakeEncoder):
    """An encoder that takes a second a batch."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def encode(self, images):
        self.clock[0] += 1
        return super().encode(images)


def test_what_needs_no_picture_does_not_take_the_place_of_what_comes_before_it(lessons, project, monkeypatch):
    desk, clock = Desk(r=png(RED)), [0.0]
    teach(lessons, 1, "r", chosen("Red"))
    teach(lessons, 2, "r", chosen("Red"), was_cancelled=True)
    monkeypatch.setattr(learning.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lessons, "learn", lambda *args, real=lessons.learn: (real(*args), clock.__setitem__(0, 9.0)))
    found = learn(lessons, FakeEncoder(), desk, until=1.0)
    assert (found.annotations, found.after, waiting(lessons)) == (2, 1, [])
    assert classes(project) == {"Red": 1}


def test_without_time_nothing_is_begun(lessons):
    desk = Desk(r=png(RED))
    teach(lessons, 1, "r", chosen("Red"))
    found = learn(lessons, FakeEncoder(), desk, until=time.monotonic())
    assert (found.annotations, found.after, found.more, desk.asked) == (0, 0, True, [])


def test_the_longest_pause_of_what_does_not_answer_is_told(lessons):
    desk = Desk(r=png(RED))
    desk.dead = {"a", "longer", "bb"}
    for n, image in enumerate(["a", "longer", "r", "bb"], start=1):
        teach(lessons, n, image, chosen("Red"))
    found = learn(lessons, FakeEncoder(), desk)
    assert (found.annotations, str(found.waits), found.waits.pause) == (1, "longer does not answer", 6.0)
    assert (waiting(lessons), found.more) == ([1, 2, 4], False)
    assert learn(lessons, FakeEncoder(), Desk(a=png(RED), longer=png(RED), bb=png(RED))).waits is None


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
    """An encoder that keeps how many pictures came together, and stops at a part."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.together, self.stop_at = [], stop_at

    def encode(self, images):
        images = list(images)
        self.together.append(len(images))
        if len(self.together) == self.stop_at:
            raise KeyboardInterrupt
        return super().encode(images)


def test_an_annotation_of_many_regions_is_learned_in_parts_and_unlearned_whole(lessons, project, stripes, monkeypatch):
    monkeypatch.setattr(task_images, "_MOST", 3)
    encoder, desk = Counting(), Desk(s=stripes, b=png(BLUE))
    teach(lessons, 1, "s", *STRIPES, config=BOXES)
    teach(lessons, 2, "b", chosen("Blue"))
    assert learn(lessons, encoder, desk).annotations == 2
    assert (encoder.together, desk.asked) == ([3, 3, 3], ["s", "b"])
    assert classes(project) == {"Red": 8, "Blue": 1}
    teach(lessons, 1, "s", *STRIPES[:5], config=BOXES, second=59)
    learn(lessons, encoder, desk)
    assert classes(project) == {"Red": 5, "Blue": 1}
    lessons.forget([1])
    assert classes(project) == {"Blue": 1}


def test_an_annotation_whose_learning_was_broken_off_is_learned_whole_the_next_time(
    lessons, project, stripes, monkeypatch
):
    monkeypatch.setattr(task_images, "_MOST", 3)
    teach(lessons, 1, "s", *STRIPES, boxed("Red", 200, 0, 5, 5, id_="outside"), config=BOXES)
    with pytest.raises(KeyboardInterrupt):
        learn(lessons, Counting(stop_at=2), Desk(s=stripes))
    assert (classes(project), waiting(lessons)) == ({"Red": 3}, [1])
    found = learn(lessons, FakeEncoder(), Desk(s=stripes))
    assert classes(project) == {"Red": 8}
    assert [problem.partition(" (")[0] for problem in found.problems] == ["annotation 1: s, region outside: the region"]
    lessons.forget([1])
    assert classes(project) == {}


def test_a_region_that_the_encoder_fails_at_leaves_the_others_of_its_annotation_too(lessons, project, stripes):
    class Picky(FakeEncoder):
        def encode(self, images):
            images = list(images)
            if any(image.size == (4, 4) for image in images):
                raise RuntimeError("no fours")
            return super().encode(images)

    teach(lessons, 1, "s", *STRIPES[:2], boxed("Red", 0, 0, 25, 100, id_="wide"), config=BOXES)
    teach(lessons, 2, "s", *STRIPES[2:], config=BOXES)
    found = learn(lessons, Picky(), Desk(s=stripes))
    assert classes(project) == {"Red": 8}
    assert found.problems == ("annotation 1: s, region wide: it could not be learned (no fours)",)


def test_no_more_than_the_room_there_is_holds_crops_and_files(monkeypatch):
    # A whole file of 10 bytes, then crops of 2 x 4 pixels: 24 bytes each. Over 40 bytes are handed over at once.
    monkeypatch.setattr(task_images, "_MOST_BYTES", 40)
    image = Image.new("RGB", (16, 4), RED)
    image.save(out := io.BytesIO(), format="PNG")
    wanted = [Asked("whole"), *(Asked("s", one) for one in STRIPES[:4]), Asked("none")]
    seen = []
    for batch in task_images.pieces(wanted, Desk(whole=b"0123456789", s=out.getvalue())):
        seen.append([(place, getattr(piece, "size", None) or type(piece).__name__) for place, piece in batch])
        kept = batch
    assert seen == [
        [(0, "bytes"), (1, (2, 4)), (2, (2, 4))],
        [(3, (2, 4)), (4, (2, 4))],
        [(5, "ImageError")],
    ]
    assert len(kept) == 1  # the same list, emptied each time


class Asked:
    def __init__(self, image, region=None):
        self.image, self.region = image, region


# An export


@pytest.fixture
def exported(lessons):
    """A desk whose export holds two annotations, both learned."""
    desk = Desk(r=png(RED), b=png(BLUE))
    desk.tasks = [
        task(1, "r", annotations=[annotation(1, 1, chosen("Red"))]),
        task(2, "b", annotations=[annotation(2, 2, chosen("Blue"))]),
    ]
    assert relearn(lessons, desk, 2, CHOICES).annotations == 2
    learn(lessons, FakeEncoder(), desk)
    return desk


def test_a_bad_annotation_of_an_export_is_passed_over_told_of_and_not_unlearned(lessons, project, exported):
    exported.tasks[0]["annotations"][0]["updated_at"] = "noon"
    exported.tasks += [task(3, "b", annotations=[annotation(3, 3, chosen("Red"))])]
    found = relearn(lessons, exported, 2, CHOICES)
    assert found.annotations == 1
    (problem,) = found.problems
    assert problem.startswith("annotation 1 was passed over: updated_at must be a time with its zone")
    learn(lessons, FakeEncoder(), exported)
    assert classes(project) == {"Red": 2, "Blue": 1}


@pytest.mark.parametrize(
    "bad", [{"id": 9, "annotations": 7}, {"id": 9, "annotations": [{"id": "x"}]}, None], ids=["number", "text", "none"]
)
def test_where_an_annotation_has_no_number_nothing_is_unlearned(lessons, project, exported, bad):
    exported.tasks = [bad, exported.tasks[1]]
    (problem,) = relearn(lessons, exported, 2, CHOICES).problems
    assert problem.startswith("annotation without a number was passed over: ")
    assert classes(project) == {"Red": 1, "Blue": 1}


def test_a_question_asked_later_is_learned_from_annotations_that_are_known(lessons, project, exported):
    exported.tasks[0]["annotations"][0]["result"].append(boxed("Blue", 0, 0, 50, 50))
    assert relearn(lessons, exported, 2, CHOICES).annotations == 0
    assert relearn(lessons, exported, 2, BOTH).annotations == 1
    learn(lessons, FakeEncoder(), exported)
    assert classes(project) == {"Red": 1, "Blue": 2}
    state = lessons.state()
    assert relearn(lessons, exported, 2, BOTH).annotations == 0
    assert lessons.state() == state


def test_what_is_no_export_is_refused_and_changes_nothing(lessons, project, exported):
    exported.tasks = {"detail": "no"}
    with pytest.raises(BadRequest, match="an export is a list of tasks, not dict"):
        relearn(lessons, exported, 2, CHOICES)
    assert classes(project) == {"Red": 1, "Blue": 1}


def test_one_bad_annotation_of_many_that_come_together_leaves_the_others():
    good, bad = annotation(1, 7, chosen("Red")), annotation(2, 7, result=None)
    body = created([good, bad, annotation(3, 8)], [task(7, "x")], action="ANNOTATIONS_CREATED")
    notes = read_event(body).notes
    assert [note.annotation for note in notes.read] == [1]
    assert notes.passed_over() == [
        "annotation 2 was passed over: annotation 2 must have a result, and its task data",
        "annotation 3 was passed over: annotation 3 comes without its task 8",
    ]


def test_what_is_nested_without_end_is_one_bad_annotation():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    tasks = [
        task(1, "x", annotations=[annotation(1, 1, boxed("Red", 0, 0, 9, 9, original_width=deep)), annotation(2, 1)])
    ]
    notes = notes_of_export(tasks, BOXES)
    assert ([note.annotation for note in notes.read], notes.skipped) == ([2], {1: "annotation 1 is nested too deep"})
