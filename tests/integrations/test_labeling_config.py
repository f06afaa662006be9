"""Labelling configurations: which controls ask for a class of an image."""

from __future__ import annotations

import pytest
from label_studio_fakes import BOXES, CHOICES, SEVERAL

from fewshot.integrations import parse_config
from fewshot.integrations.label_studio.labeling_config import inline_text


def test_the_controls_that_ask_for_a_class_of_an_image_are_found():
    (choice,) = parse_config(CHOICES)
    assert (choice.name, choice.to_name, choice.kind, choice.image) == ("choice", "image", "choices", "image")
    assert (choice.labels, choice.multiple) == (("Red", "Blue"), False)
    assert [one.multiple for one in parse_config(SEVERAL)] == [True]
    assert [(one.name, one.kind, one.labels) for one in parse_config(BOXES)] == [
        ("box", "rectanglelabels", ("Red", "Blue")),
        ("brush", "brushlabels", ("Red", "Blue")),
    ]


def test_an_alias_is_what_an_annotation_holds():
    (control,) = parse_config(CHOICES.replace('value="Red"', 'value="Rot" alias="Red"'))
    assert control.labels == ("Red", "Blue")


@pytest.mark.parametrize(
    "config",
    [
        '<View><Video name="v" value="$v"/><Choices name="c" toName="v"><Choice value="A"/></Choices></View>',
        '<View><Text name="t" value="$t"/><Labels name="l" toName="t"><Label value="A"/></Labels></View>',
        CHOICES.replace("<Choices ", '<Choices perRegion="true" '),
        CHOICES.replace("<Choices ", '<Choices allowNested="true" '),
        CHOICES.replace("$image", "https://host/$image"),
        "<View/>",
    ],
    ids=["of a video", "of parts of a text", "of each region", "nested", "no plain variable", "empty"],
)
def test_other_controls_are_left_out(config):
    assert parse_config(config) == ()


@pytest.mark.parametrize("value", ["true", "True", "1", "yes"])
def test_a_control_that_models_are_to_skip_is_left_out(value):
    assert parse_config(CHOICES.replace("<Choices ", f'<Choices model_skip="{value}" ')) == ()
    assert [
        one.name for one in parse_config(BOXES.replace("<BrushLabels ", f'<BrushLabels model_skip="{value}" '))
    ] == ["box"]
    assert len(parse_config(CHOICES.replace("<Choices ", '<Choices model_skip="false" '))) == 1


def test_a_control_may_have_a_lowest_score_of_its_own(caplog):
    def lowest(attribute):
        (control,) = parse_config(CHOICES.replace("<Choices ", f"<Choices {attribute} "))
        return control.min_score

    assert (lowest('model_score_threshold="0.3"'), lowest('score_threshold="0.4"'), lowest("")) == (0.3, 0.4, 0.0)
    assert caplog.messages == []
    assert (lowest('model_score_threshold="high"'), lowest('model_score_threshold="nan"')) == (0.0, 0.0)
    assert caplog.messages[0] == "model_score_threshold='high' of 'choice' is no number, and is left out"


def test_choices_that_each_task_brings_have_no_labels():
    (control,) = parse_config(
        '<View><Image name="i" value="$image"/><Choices name="c" toName="i" value="$options"/></View>'
    )
    assert control.labels == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('<!DOCTYPE v [<!ENTITY a "aaaa">]><View>&a;</View>', "declares a document type or entities"),
        ("<View>" * 200, "more than 100 tags deep"),
        ("<View>" + " " * 1_000_000 + "</View>", "1,000,013 characters, over the limit of 1,000,000"),
        ("<View>", "is not XML"),
        ("\ud800", "is not XML"),
    ],
    ids=["entities", "deep", "long", "cut", "a lone surrogate"],
)
def test_a_hostile_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        parse_config(config)


@pytest.mark.parametrize(
    ("tag", "modality", "address"),
    [
        ('Text name="o" value="$d"', "text", "data:text/plain;charset=utf-8;base64,Y2Fmw6k="),
        ('Text name="o" value="$d" valueType="url"', "text", "caf\u00e9"),
        ('Audio name="o" value="$d"', "audio", "caf\u00e9"),
        ('Image name="o" value="$d"', "image", "caf\u00e9"),
    ],
)
def test_choices_of_a_text_or_a_sound_are_found_and_a_text_itself_is_its_own_address(tag, modality, address):
    config = f'<View><{tag}/><Choices name="c" toName="o"><Choice value="A"/></Choices></View>'

    (control,) = parse_config(config)

    assert (control.modality, control.image, control.kind) == (modality, "d", "choices")
    assert control.address({"d": "caf\u00e9"}) == address
    assert control.address({"d": 3}) is None
    assert inline_text(address) == ("caf\u00e9" if address.startswith("data:") else None)
