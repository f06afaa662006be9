"""What ``fewshot evaluate --report`` and a notebook show of an evaluation."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from fakes import FakeEncoder
from PIL import Image

from fewshot import ClassRegistry
from fewshot.registry import Evaluation, Prediction, write_evaluation_report
from fewshot.registry.evaluation_charts import calibration_error, rejection_curve, reliability_bins
from fewshot.registry.evaluation_results import Judged
from fewshot.registry.results import Neighbor


def judged(label, predicted, probability=None, unknown=math.nan, **more):
    return Judged(f"{label}.png", label, predicted, 0.5, probability=probability, unknown_score=unknown, **more)


ROWS = (
    judged("cat", "cat", 0.95, -0.9), judged("cat", "dog", 0.85, -0.2), judged("dog", "dog", 0.85, -0.6),
    judged("dog", "dog", 0.25, -0.1, rejected=True),
)  # fmt: skip


def test_bins_hold_the_mean_probability_and_the_share_right():
    bins = reliability_bins(ROWS)
    assert [(pytest.approx(stated), right, n) for stated, right, n in bins] == [
        (0.25, 1.0, 1),
        (0.85, 0.5, 2),
        (0.95, 1.0, 1),
    ]
    assert calibration_error(bins) == pytest.approx((0.75 + 2 * 0.35 + 0.05) / 4)
    assert reliability_bins([judged("cat", "cat")]) == []
    assert math.isnan(calibration_error([]))


def test_a_probability_of_one_is_in_the_last_bin():
    assert reliability_bins([judged("cat", "cat", 1.0)]) == [(1.0, 1.0, 1)]


def test_the_best_known_are_accepted_first():
    assert rejection_curve(ROWS) == [(0.25, 1.0), (0.5, 1.0), (0.75, pytest.approx(2 / 3)), (1.0, 0.75)]


def test_without_unknown_scores_the_surest_are_accepted_first():
    rows = [judged("cat", "dog", 0.2), judged("cat", "cat", 0.9)]
    assert rejection_curve(rows) == [(0.5, 1.0), (1.0, 0.5)]


def test_the_interval_is_wilsons_and_confusions_are_counted_most_first():
    found = Evaluation((*ROWS, judged("cat", "dog", 0.6)))
    assert found.interval == pytest.approx((0.2307, 0.8824), abs=1e-4)  # 3 of 5, by Wilson's formula
    assert found.confusions == {("cat", "dog"): 2}


def test_a_notebook_shows_the_confusion_matrix_and_escapes_labels():
    html = Evaluation((*ROWS, judged("<b>", "cat", 0.5)))._repr_html_()
    assert "60.0 %</b> of 5 right" in html
    assert "&lt;b&gt;" in html
    assert "<b>," not in html
    cells = re.search(r'<tr><th scope="row">cat</th>(.*?)</tr>', html)[1]
    assert re.findall(r">(\d+|·)</td>", cells) == ["·", "1", "1"]  # columns: <b>, cat, dog


def test_of_many_classes_the_pairs_confused_most_are_shown():
    rows = [judged(f"c{n:02}", f"c{n:02}") for n in range(30)] + [judged("c03", "c07")] * 2
    html = Evaluation(tuple(rows))._repr_html_()
    assert '<th scope="row">c03</th><td>c07</td><td class="number">2 of 3</td>' in html
    assert "c20" not in html


def test_a_notebook_shows_a_prediction_with_its_nearest_examples():
    near = (Neighbor(7, "cup", "a<b>.png", 0.5),)
    html = Prediction("cup", 0.8, (("cup", 0.8), ("pen", -0.1)), near, probability=0.93)._repr_html_()
    assert "<b>cup</b> · 93 %" in html
    assert "width:0px" in html  # a negative score has no bar
    assert "a&lt;b&gt;.png" in html
    assert "none of the known classes" in Prediction(None, 0.1, (("cup", 0.1),))._repr_html_()


@pytest.fixture
def colours(tmp_path):
    for name, value in (("red", (250, 0, 0)), ("green", (0, 250, 0))):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            for n in range(2):
                pixels = np.full((8, 8, 3), value, np.uint8) + np.uint8(n + 3 * (part == "test"))
                Image.fromarray(pixels).save(tmp_path / part / name / f"{n}.png")
    (tmp_path / "test" / "red" / "2.png").write_bytes((tmp_path / "test" / "green" / "0.png").read_bytes())
    (tmp_path / "test" / "red" / "broken.png").write_bytes(b"no image")
    with ClassRegistry(tmp_path / "colours.fewshot", encoder=FakeEncoder()) as registry:
        registry.add_folder(str(tmp_path / "train"))
        yield registry


def test_the_report_shows_errors_hits_and_what_could_not_be_read_in_one_file(colours, tmp_path):
    found = colours.evaluate(str(tmp_path / "test"), nearest=1)
    assert (found.n, found.accuracy) == (5, 0.8)
    path = write_evaluation_report(colours, found, tmp_path)
    page = (tmp_path / "evaluation.html").read_text()
    assert path == str(tmp_path / "evaluation.html")
    assert '<p class="big">80.0 %</p>' in page
    assert '<s>green</s> → <span class="to">red</span>' in page
    assert "broken.png could not be read" in page
    assert page.count('<img class="shown" src="data:image/jpeg;base64,') == 2 * 5  # each, and its nearest example
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)


def test_nothing_evaluated_is_nothing_to_report(colours, tmp_path):
    with pytest.raises(ValueError, match="nothing was evaluated"):
        write_evaluation_report(colours, Evaluation(()), tmp_path)
    assert "Nothing was evaluated" in Evaluation(())._repr_html_()
