"""What annotations teach a registry, and how they are unlearned."""

from __future__ import annotations

from contextlib import closing

import pytest
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, classes, png

from fewshot import ClassRegistry, RegistryError
from fewshot.registry import queries
from fewshot.registry.annotations.annotation_records import Lesson, Note, Taught
from fewshot.registry.annotations.annotation_writer import Lessons
from fewshot.registry.store import RegistryStore

ENCODER = FakeEncoder(name="colours")


def note(annotation, updated=1, *, task=1, body="[]"):
    return Note(annotation, task, updated, body)


def lesson(*labels, picture=None, region="", control="choice"):
    return Lesson(control, region, labels, picture or png(RED), "red.png")


def teach(lessons, annotation, *given, updated=1, task=1):
    lessons.note([note(annotation, updated, task=task)])
    lessons.learn([Taught(one, given) for one in lessons.waiting(limit=9) if one.annotation == annotation], ENCODER)


def negatives(project):
    with ClassRegistry(project, create=False) as registry:
        return registry.rejection.n_negatives


def test_a_lesson_is_an_example_and_goes_with_its_annotation(lessons, project):
    teach(lessons, 1, lesson("Red"))
    assert classes(project) == {"Red": 1}
    lessons.forget([1])
    assert classes(project) == {}


def test_a_note_waits_in_the_file_until_it_is_learned(lessons, project):
    assert lessons.note([note(7, body="what to learn")]) == 1
    with Lessons(project) as other:
        (waiting,) = other.waiting(limit=1)
        assert waiting == note(7, body="what to learn")
        other.learn([Taught(waiting, (lesson("Red"),))], ENCODER)
    assert lessons.waiting(limit=1) == []


def test_an_update_teaches_anew(lessons, project):
    teach(lessons, 1, lesson("Red"))
    teach(lessons, 1, lesson("Blue"), updated=2)
    assert classes(project) == {"Blue": 1}


def test_a_note_that_comes_twice_or_late_changes_nothing(lessons, project):
    teach(lessons, 1, lesson("Blue"), updated=2)
    state = lessons.state()
    assert lessons.note([note(1, 2), note(1, 1)]) == 0
    assert (lessons.waiting(limit=1), lessons.state()) == ([], state)


def test_what_was_deleted_before_it_was_heard_of_stays_deleted(lessons):
    lessons.forget([1], tasks=[5])
    assert lessons.note([note(1), note(2, task=5), note(3, task=6)]) == 1
    assert [one.annotation for one in lessons.waiting(limit=9)] == [3]


def test_a_deleted_task_takes_its_annotations_along(lessons, project):
    teach(lessons, 1, lesson("Red"), task=5)
    teach(lessons, 2, lesson("Blue", picture=png(BLUE)), task=6)
    lessons.forget(tasks=[5])
    assert classes(project) == {"Blue": 1}


def test_a_note_overtaken_while_it_was_learned_is_not_learned(lessons, project):
    lessons.note([note(1, 1)])
    (old,) = lessons.waiting(limit=1)
    lessons.note([note(1, 2)])
    lessons.learn([Taught(old, (lesson("Red"),))], ENCODER)
    assert classes(project) == {}
    assert [one.updated for one in lessons.waiting(limit=1)] == [2]


def test_an_example_stays_as_long_as_one_lesson_supports_it(lessons, project):
    teach(lessons, 1, lesson("Red"))
    teach(lessons, 2, lesson("Red"))
    lessons.forget([1])
    assert classes(project) == {"Red": 1}
    lessons.forget([2])
    assert classes(project) == {}


def test_annotators_who_disagree_are_both_heard(lessons, project):
    teach(lessons, 1, lesson("Red"))
    teach(lessons, 2, lesson("Blue"))
    assert classes(project) == {"Red": 1, "Blue": 1}


def test_an_example_that_was_there_before_any_lesson_stays(lessons, project):
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.add("Red", [png(RED)])
    teach(lessons, 1, lesson("Red"))
    lessons.forget([1])
    assert classes(project) == {"Red": 1}


def test_none_of_the_classes_is_a_negative_until_it_is_unlearned(lessons, project):
    teach(lessons, 1, lesson())
    teach(lessons, 2, lesson("Red"))
    assert (classes(project), negatives(project)) == ({"Red": 1}, 1)
    lessons.forget([1])
    assert (classes(project), negatives(project)) == ({"Red": 1}, 0)


def test_a_negative_given_by_hand_stays(lessons, project):
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.rejection.add_negatives([png(RED)])
    teach(lessons, 1, lesson())
    lessons.forget([1])
    assert negatives(project) == 1


def test_one_bad_lesson_of_an_annotation_leaves_the_others(lessons, project):
    teach(lessons, 1, lesson("Red"), lesson("Blue", picture=b"no picture", region="r2"), lesson("\n", region="r3"))
    assert classes(project) == {"Red": 1}
    (problem,) = lessons.problems([1, 2]).values()
    assert "red.png: not an image" in problem
    assert "a label must hold something to read" in problem


def test_a_known_picture_is_not_embedded_again(lessons):
    teach(lessons, 1, lesson("Red"))
    before = ENCODER.encoded
    teach(lessons, 2, lesson("Blue"))
    assert ENCODER.encoded == before


def test_noted_again_what_is_whole_stays_and_what_is_wanting_is_learned_anew(lessons, project):
    teach(lessons, 1, lesson("Red"))
    teach(lessons, 2, lesson("Blue", picture=png(BLUE)))
    teach(lessons, 3, lesson("Green", picture=b"broken"))
    with ClassRegistry(project, create=False) as registry:
        registry.remove("Blue")
    notes = [note(n) for n in (1, 2, 3)]
    assert lessons.note(notes) == 0
    assert lessons.note(notes, again=True) == 2
    assert [one.annotation for one in lessons.waiting(limit=9)] == [2, 3]
    lessons.forget([2])
    assert lessons.note(notes, again=True) == 0


def test_noted_again_what_says_something_else_is_learned_anew(lessons):
    teach(lessons, 1, lesson("Red"))
    assert lessons.note([note(1, body="another")]) == 0
    assert lessons.note([note(1, body="another")], again=True) == 1
    assert [one.body for one in lessons.waiting(limit=9)] == ["another"]
    assert lessons.note([note(1, body="another")], again=True) == 0


@pytest.fixture
def twins(lessons, project):
    """A picture that annotation 1 calls Red and annotation 2 Blue, and two that are the same as one by hand."""
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.add("Blue", [png(GREEN)])
        registry.add("Red", [png(BLACK)])
    for number, label, colour in ((1, "Red", RED), (2, "Blue", RED), (3, "Red", GREEN), (4, "Blue", BLACK)):
        teach(lessons, number, lesson(label, picture=png(colour)))
    assert classes(project) == {"Blue": 3, "Red": 3}
    return project


def moved(project):
    with closing(RegistryStore(project, create=False)) as store:
        for example in queries.examples(store, "Red"):
            queries.move(store, example.id, "Blue")


def merged(project):
    with ClassRegistry(project, create=False) as registry:
        registry.merge(["Red"], "Blue")


@pytest.mark.parametrize("join", [moved, merged])
def test_lessons_follow_their_example_to_one_of_the_same_picture(lessons, twins, join):
    join(twins)
    assert classes(twins) == {"Blue": 3}
    assert lessons.note([note(n) for n in (1, 2, 3, 4)], again=True) == 0
    lessons.forget([1])
    assert classes(twins) == {"Blue": 3}
    lessons.forget([2])
    assert classes(twins) == {"Blue": 2}


@pytest.mark.parametrize("join", [moved, merged])
def test_what_was_registered_by_hand_stays_wherever_it_is_moved(lessons, twins, join):
    join(twins)
    lessons.forget([1, 2, 3, 4])
    with ClassRegistry(twins, encoder=ENCODER, create=False) as registry:
        assert registry.classes() == {"Blue": 2}
        assert [registry.predict([png(c)])[0].label for c in (GREEN, BLACK)] == ["Blue", "Blue"]


def test_what_was_moved_by_hand_stays_there_when_its_annotation_is_learned_again(lessons, project):
    given = [lesson("Red", region="1"), lesson("Red", picture=png(GREEN), region="2"), lesson("Red", region="3")]
    one = note(1)
    lessons.note([one])
    lessons.learn([Taught(one, tuple(given), ("a bad region",))], ENCODER)  # so that it is wanting
    with closing(RegistryStore(project, create=False)) as store:
        for example in queries.examples(store):
            queries.move(store, example.id, "Blue")
    assert classes(project) == {"Blue": 2}
    assert lessons.note([one], again=True) == 1
    lessons.learn([Taught(one, tuple(given[:1]), ends=False)], ENCODER)
    lessons.learn([Taught(one, tuple(given[1:]), begins=False)], ENCODER)
    assert classes(project) == {"Blue": 2}
    teach(lessons, 1, lesson("Red", region="1"), lesson("Black", picture=png(GREEN), region="2"), updated=2)
    assert classes(project) == {"Blue": 1, "Black": 1}
    teach(lessons, 1, lesson("Red", picture=png(BLACK), region="1"), updated=3)
    assert classes(project) == {"Red": 1}


def test_a_registry_without_lessons_gets_none_by_a_merge(project):
    with ClassRegistry(project, encoder=ENCODER) as registry:
        registry.add("Red", [png(RED)])
        registry.add("Blue", [png(RED)], allow_conflict=True)
        assert registry.merge(["Red"], "Blue") == 1
    with Lessons(project) as opened:
        assert opened.memory(ENCODER).votes == []


def test_what_is_asked_to_be_learned_again_is_kept_until_that_very_question_is_answered(lessons, project):
    state = lessons.state()
    assert lessons.asked_again() is None
    lessons.ask_again("<View/>")
    with Lessons(project) as other:
        first = other.asked_again()
        assert first.how == "<View/>"
        other.ask_again("<View/>")
        other.answered(first)
        second = other.asked_again()
        assert (second.how, second.when > first.when) == ("<View/>", True)
        other.answered(second)
    assert lessons.asked_again() is None
    assert lessons.state() == state


def test_what_changes_nothing_is_no_change(lessons):
    teach(lessons, 1, lesson("Red"))
    teach(lessons, 2)
    lessons.forget([9], tasks=[9])
    state = lessons.state()
    lessons.forget([9], tasks=[9])
    lessons.missing([2, 5])
    assert lessons.note([note(1), note(2)], again=True) == 0
    assert lessons.state() == state


def test_what_is_missing_is_unlearned_and_may_come_back(lessons, project):
    teach(lessons, 1, lesson("Red"))
    lessons.missing([1])
    assert classes(project) == {}
    assert lessons.note([note(1, 1)]) == 0
    assert lessons.note([note(1, 1)], again=True) == 1
    assert lessons.note([note(1, 2)]) == 1


def test_predictions_of_an_open_registry_follow_the_lessons(lessons, project):
    teach(lessons, 1, lesson("Red"))
    teach(lessons, 2, lesson("Blue", picture=png(BLUE)))
    with ClassRegistry(project, encoder=ENCODER, create=False) as registry:
        assert registry.predict([png(BLUE, 9)])[0].label == "Blue"
        teach(lessons, 2, lesson("Green", picture=png(GREEN)), updated=2)
        assert registry.predict([png(GREEN, 9)])[0].label == "Green"
        assert registry.classes() == {"Red": 1, "Green": 1}


def test_memory_holds_what_each_annotation_said(lessons):
    teach(lessons, 1, lesson("Red"), lesson(picture=png(BLUE), region="r"))
    memory = lessons.memory(ENCODER)
    assert [(v.annotation, v.region, v.label, v.example, v.negative) for v in memory.votes] == [
        (1, "", "Red", 1, None),
        (1, "r", "", None, 1),
    ]
    assert memory.rows.labels == ["Red"]
    assert memory.negatives[1].tolist() == [0.0, 0.0, 1.0]
    assert memory.state == lessons.state()


def test_lessons_are_of_a_registry_that_exists(tmp_path):
    with pytest.raises(RegistryError, match="there is no registry"):
        Lessons(tmp_path / "none.fewshot")
