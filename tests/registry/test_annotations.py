"""Annotations applied to a registry, and removed from it."""

from __future__ import annotations

import pytest
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, classes, png

from fewshot import ClassRegistry, RegistryError
from fewshot.registry import AnnotationRecord, AnnotationWriter, FetchedAnnotation, ImageLabels, LabelledImage

ENCODER = FakeEncoder(name="colours")


def record(annotation, updated=1, *, task=1, labels=()):
    return AnnotationRecord(annotation, task, updated, labels)


def labelled(*labels, picture=None, region="", control="choice"):
    return LabelledImage(control, region, labels, picture or png(RED), "red.png")


def apply(writer, annotation, *images, updated=1, task=1):
    writer.record([record(annotation, updated, task=task)])
    pending = [one for one in writer.pending(limit=9) if one.annotation == annotation]
    writer.apply([FetchedAnnotation(one, images) for one in pending], ENCODER)


def negatives(project):
    with ClassRegistry(project, create=False) as registry:
        return registry.rejection.n_negatives


def test_a_labelled_image_is_an_example_and_goes_with_its_annotation(writer, project):
    apply(writer, 1, labelled("Red"))
    assert classes(project) == {"Red": 1}
    writer.delete([1])
    assert classes(project) == {}


def test_a_record_is_pending_in_the_file_until_it_is_applied(writer, project):
    labels = (ImageLabels("box", "/\ud800.png", "r1", ("Red", "Blue"), {"value": {"x": 1.5, "y": float("inf")}}),)
    assert writer.record([record(7, labels=labels)]) == 1
    with AnnotationWriter(project) as other:
        (pending,) = other.pending(limit=1)
        assert pending == record(7, labels=labels)
        other.apply([FetchedAnnotation(pending, (labelled("Red"),))], ENCODER)
    assert writer.pending(limit=1) == []


def test_an_update_replaces_what_was_applied_before(writer, project):
    apply(writer, 1, labelled("Red"))
    apply(writer, 1, labelled("Blue"), updated=2)
    assert classes(project) == {"Blue": 1}


def test_a_record_that_comes_twice_or_late_changes_nothing(writer, project):
    apply(writer, 1, labelled("Blue"), updated=2)
    state = writer.state()
    assert writer.record([record(1, 2), record(1, 1)]) == 0
    assert (writer.pending(limit=1), writer.state()) == ([], state)


def test_what_was_deleted_before_it_was_recorded_stays_deleted(writer):
    writer.delete([1], tasks=[5])
    assert writer.record([record(1), record(2, task=5), record(3, task=6)]) == 1
    assert [one.annotation for one in writer.pending(limit=9)] == [3]


def test_a_deleted_task_takes_its_annotations_along(writer, project):
    apply(writer, 1, labelled("Red"), task=5)
    apply(writer, 2, labelled("Blue", picture=png(BLUE)), task=6)
    writer.delete(tasks=[5])
    assert classes(project) == {"Blue": 1}


def test_a_record_with_a_later_one_is_not_applied(writer, project):
    writer.record([record(1, 1)])
    (old,) = writer.pending(limit=1)
    writer.record([record(1, 2)])
    writer.apply([FetchedAnnotation(old, (labelled("Red"),))], ENCODER)
    assert classes(project) == {}
    assert [one.updated for one in writer.pending(limit=1)] == [2]


def test_an_example_stays_as_long_as_one_annotation_gives_it(writer, project):
    apply(writer, 1, labelled("Red"))
    apply(writer, 2, labelled("Red"))
    writer.delete([1])
    assert classes(project) == {"Red": 1}
    writer.delete([2])
    assert classes(project) == {}


def test_annotators_who_disagree_both_count(writer, project):
    apply(writer, 1, labelled("Red"))
    apply(writer, 2, labelled("Blue"))
    assert classes(project) == {"Red": 1, "Blue": 1}


def test_an_example_registered_before_any_annotation_stays(writer, project):
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.add("Red", [png(RED)])
    apply(writer, 1, labelled("Red"))
    writer.delete([1])
    assert classes(project) == {"Red": 1}


def test_none_of_the_classes_is_a_negative_until_its_annotation_is_deleted(writer, project):
    apply(writer, 1, labelled())
    apply(writer, 2, labelled("Red"))
    assert (classes(project), negatives(project)) == ({"Red": 1}, 1)
    writer.delete([1])
    assert (classes(project), negatives(project)) == ({"Red": 1}, 0)


def test_a_negative_given_by_hand_stays(writer, project):
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.rejection.add_negatives([png(RED)])
    apply(writer, 1, labelled())
    writer.delete([1])
    assert negatives(project) == 1


def test_one_bad_image_of_an_annotation_leaves_the_others(writer, project):
    apply(writer, 1, labelled("Red"), labelled("Blue", picture=b"no picture", region="r2"), labelled("\n", region="r3"))
    assert classes(project) == {"Red": 1}
    (problem,) = writer.problems([1, 2]).values()
    assert "red.png: not an image" in problem
    assert "a label must hold something to read" in problem


def test_a_known_picture_is_not_embedded_again(writer):
    apply(writer, 1, labelled("Red"))
    before = ENCODER.encoded
    apply(writer, 2, labelled("Blue"))
    assert ENCODER.encoded == before


def test_refreshed_what_is_whole_stays_and_what_is_incomplete_is_pending_again(writer, project):
    apply(writer, 1, labelled("Red"))
    apply(writer, 2, labelled("Blue", picture=png(BLUE)))
    apply(writer, 3, labelled("Green", picture=b"broken"))
    with ClassRegistry(project, create=False) as registry:
        registry.remove("Blue")
    records = [record(n) for n in (1, 2, 3)]
    assert writer.record(records) == 0
    assert writer.record(records, refresh=True) == 2
    assert [one.annotation for one in writer.pending(limit=9)] == [2, 3]
    writer.delete([2])
    assert writer.record(records, refresh=True) == 0


def test_refreshed_what_has_other_labels_is_pending_again(writer):
    apply(writer, 1, labelled("Red"))
    other = record(1, labels=(ImageLabels("choice", "x", "", ("Blue",)),))
    assert writer.record([other]) == 0
    assert writer.record([other], refresh=True) == 1
    assert writer.pending(limit=9) == [other]
    assert writer.record([other], refresh=True) == 0


@pytest.fixture
def twins(writer, project):
    """A picture that annotation 1 calls Red and annotation 2 Blue, and two that are the same as one by hand."""
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.add("Blue", [png(GREEN)])
        registry.add("Red", [png(BLACK)])
    for number, label, colour in ((1, "Red", RED), (2, "Blue", RED), (3, "Red", GREEN), (4, "Blue", BLACK)):
        apply(writer, number, labelled(label, picture=png(colour)))
    assert classes(project) == {"Blue": 3, "Red": 3}
    return project


def moved(project):
    with ClassRegistry(project, create=False) as registry:
        for example in registry.list_examples("Red"):
            registry.move_example(example.id, "Blue")


def merged(project):
    with ClassRegistry(project, create=False) as registry:
        registry.merge(["Red"], "Blue")


@pytest.mark.parametrize("join", [moved, merged])
def test_annotations_give_the_example_that_theirs_was_joined_with(writer, twins, join):
    join(twins)
    assert classes(twins) == {"Blue": 3}
    assert writer.record([record(n) for n in (1, 2, 3, 4)], refresh=True) == 0
    writer.delete([1])
    assert classes(twins) == {"Blue": 3}
    writer.delete([2])
    assert classes(twins) == {"Blue": 2}


@pytest.mark.parametrize("join", [moved, merged])
def test_what_was_registered_by_hand_stays_wherever_it_is_moved(writer, twins, join):
    join(twins)
    writer.delete([1, 2, 3, 4])
    with ClassRegistry(twins, encoder=ENCODER, create=False) as registry:
        assert registry.classes() == {"Blue": 2}
        assert [registry.predict([png(c)])[0].label for c in (GREEN, BLACK)] == ["Blue", "Blue"]


def test_what_was_moved_by_hand_stays_there_when_its_annotation_is_applied_again(writer, project):
    given = [labelled("Red", region="1"), labelled("Red", picture=png(GREEN), region="2"), labelled("Red", region="3")]
    one = record(1)
    writer.record([one])
    writer.apply([FetchedAnnotation(one, tuple(given), ("a bad region",))], ENCODER)  # so that it is incomplete
    with ClassRegistry(project, create=False) as registry:
        for example in registry.list_examples():
            registry.move_example(example.id, "Blue")
    assert classes(project) == {"Blue": 2}
    assert writer.record([one], refresh=True) == 1
    writer.apply([FetchedAnnotation(one, tuple(given[:1]), is_last=False)], ENCODER)
    writer.apply([FetchedAnnotation(one, tuple(given[1:]), is_first=False)], ENCODER)
    assert classes(project) == {"Blue": 2}
    apply(writer, 1, labelled("Red", region="1"), labelled("Black", picture=png(GREEN), region="2"), updated=2)
    assert classes(project) == {"Blue": 1, "Black": 1}
    apply(writer, 1, labelled("Red", picture=png(BLACK), region="1"), updated=3)
    assert classes(project) == {"Red": 1}


def test_a_registry_without_annotations_gets_none_by_a_merge(project):
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.add("Red", [png(RED)])
        registry.add("Blue", [png(RED)], allow_conflict=True)
        assert registry.merge(["Red"], "Blue") == 1
        assert registry.annotations().applied == []


def test_a_request_to_resync_stays_until_that_very_request_is_finished(writer, project):
    state = writer.state()
    assert writer.resync_request() is None
    writer.request_resync("<View/>")
    with AnnotationWriter(project) as other:
        first = other.resync_request()
        assert first.config == "<View/>"
        other.request_resync("<View/>")
        other.finish_resync(first)
        second = other.resync_request()
        assert (second.config, second.requested_at > first.requested_at) == ("<View/>", True)
        other.finish_resync(second)
    assert writer.resync_request() is None
    assert writer.state() == state


def test_what_changes_nothing_is_no_change(writer):
    apply(writer, 1, labelled("Red"))
    apply(writer, 2)
    writer.delete([9], tasks=[9])
    state = writer.state()
    writer.delete([9], tasks=[9])
    writer.retract([2, 5])
    assert writer.record([record(1), record(2)], refresh=True) == 0
    assert writer.state() == state


def test_what_is_retracted_may_be_recorded_again(writer, project):
    apply(writer, 1, labelled("Red"))
    writer.retract([1])
    assert classes(project) == {}
    assert writer.record([record(1, 1)]) == 0
    assert writer.record([record(1, 1)], refresh=True) == 1
    assert writer.record([record(1, 2)]) == 1


def test_an_open_registry_predicts_by_the_annotations_applied_since(writer, project):
    apply(writer, 1, labelled("Red"))
    apply(writer, 2, labelled("Blue", picture=png(BLUE)))
    with ClassRegistry(project, encoder=ENCODER, create=False) as registry:
        assert registry.predict([png(BLUE, 9)])[0].label == "Blue"
        apply(writer, 2, labelled("Green", picture=png(GREEN)), updated=2)
        assert registry.predict([png(GREEN, 9)])[0].label == "Green"
        assert registry.classes() == {"Red": 1, "Green": 1}


def test_a_snapshot_holds_the_labels_of_each_annotation(writer, project):
    apply(writer, 1, labelled("Red"), labelled(picture=png(BLUE), region="r"))
    with ClassRegistry(project, encoder=ENCODER) as registry:
        snapshot = registry.annotations()
    assert [(one.annotation, one.region_id, one.label, one.example, one.negative) for one in snapshot.applied] == [
        (1, "", "Red", 1, None),
        (1, "r", "", None, 1),
    ]
    assert snapshot.examples.labels == ["Red"]
    assert snapshot.negatives[1].tolist() == [0.0, 0.0, 1.0]
    assert snapshot.examples.state == writer.state()


def test_annotations_are_written_to_a_registry_that_exists(tmp_path):
    with pytest.raises(RegistryError, match="there is no registry"):
        AnnotationWriter(tmp_path / "none.fewshot")
