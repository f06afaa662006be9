"""VectorIndex against brute force, whatever was added, removed, saved or asked."""

from __future__ import annotations

import subprocess
import sys

import faiss
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fewshot.vectors.index
from fewshot.validation import METRICS
from fewshot.vectors.index import VectorIndex


def brute_force(vectors, ids, query, k, metric):
    """Scores in float64 and the ids they belong to, closest first."""
    vectors, query = np.asarray(vectors, float), np.asarray(query, float)
    if metric == "sqeuclidean":
        scores = -((query[:, None] - vectors[None]) ** 2).sum(-1)
    else:
        if metric == "cosine":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            query = query / np.linalg.norm(query, axis=1, keepdims=True)
        scores = query @ vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.asarray(ids)[order]


def assert_equals_brute_force(index, vectors, ids, query, k, rtol=1e-4):
    scores, found = index.search(query, k)
    expected_scores, expected = brute_force(vectors, ids, query, k, index.metric)
    assert scores.dtype == np.float32
    assert_array_equal(found, expected)
    assert_allclose(scores, expected_scores, rtol=rtol, atol=1e-5 if index.metric == "cosine" else 1e-3)


def cloud(n, dim=16, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1.0, (n, dim)).astype(np.float32)


def names_of(kind, n):
    return [f"image {number}" for number in range(n)] if kind == "string" else list(range(1000, 1000 + n))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["string", "int"])
@pytest.mark.parametrize("n_queries", [1, 30])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_a_search_equals_brute_force(metric, kind, n_queries, mean):
    # Cosines of vectors so far away differ in the seventh digit, which float32 does not hold: there, closer.
    mean = 10.0 if metric == "cosine" and mean else mean
    vectors, query = cloud(300, mean=mean), cloud(n_queries, mean=mean, seed=1)
    ids = names_of(kind, 300)
    index = VectorIndex(16, metric=metric)
    index.add(vectors[:200], ids[:200])
    index.add(vectors[200:], ids[200:])
    assert_equals_brute_force(index, vectors, ids, query, 5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_removed", [1, 120, 299])
def test_a_search_equals_brute_force_after_removals_saving_and_loading(metric, n_removed, tmp_path):
    vectors, query = cloud(300), cloud(30, seed=1)
    ids = names_of("string", 300)
    index = VectorIndex(16, metric=metric)
    index.add(vectors, ids)
    gone = set(np.random.default_rng(2).permutation(300)[:n_removed].tolist())
    index.remove([ids[number] for number in gone])
    left = [number for number in range(300) if number not in gone]
    kept = [ids[number] for number in left]
    assert len(index) == 300 - n_removed
    assert_equals_brute_force(index, vectors[left], kept, query, 5)
    index.save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index")
    for each in (index, loaded):
        assert len(each) == 300 - n_removed
        assert_equals_brute_force(each, vectors[left], kept, query, 5)
        each.add(vectors[[min(gone)]], ["back"])
        assert_equals_brute_force(each, vectors[[*left, min(gone)]], [*kept, "back"], query, 5)


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_equals_brute_force_also_where_faiss_multiplies_matrices(metric, monkeypatch):
    # FAISS does so past a number of queries that differs from release to release; without a centre it is then far off.
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 1)
    mean = 1000.0 if metric == "sqeuclidean" else 10.0
    vectors, query = cloud(300, mean=mean), cloud(30, mean=mean, seed=1)
    index = VectorIndex(16, metric=metric)
    index.add(vectors, range(300))
    assert_equals_brute_force(index, vectors, range(300), query, 5)


def test_random_additions_and_removals_always_equal_brute_force():
    rng = np.random.default_rng(0)
    for metric in METRICS:
        index, truth = VectorIndex(8, metric=metric), {}
        for step in range(40):
            vectors = rng.normal(size=(rng.integers(1, 9), 8)).astype(np.float32)
            ids = [step * 100 + offset for offset in range(len(vectors))]
            index.add(vectors, ids)
            truth.update(zip(ids, vectors, strict=True))
            gone = rng.choice(list(truth), size=rng.integers(0, min(10, len(truth)) + 1), replace=False).tolist()
            index.remove(gone)
            for name in gone:
                del truth[name]
            assert len(index) == len(truth)
            assert set(index.search(np.zeros((1, 8)) + 1, 1000)[1][0].tolist()) == set(truth)
            if truth:
                assert_equals_brute_force(index, list(truth.values()), list(truth), rng.normal(size=(3, 8)), 4)


def test_brute_force_itself_by_hand():
    scores, ids = brute_force([[3, 4], [4, -3], [0, 2]], ["a", "b", "c"], [[3, 4]], 2, "sqeuclidean")
    assert (scores.tolist(), ids.tolist()) == ([[0.0, -13.0]], [["a", "c"]])
    assert brute_force([[3, 4], [0, 2]], ["a", "c"], [[0, 1]], 2, "cosine")[0].tolist() == [[1.0, 0.8]]
    assert brute_force([[3, 4], [0, 2]], ["a", "c"], [[1, 1]], 2, "inner_product")[0].tolist() == [[7.0, 2.0]]


def test_asking_for_more_than_there_are_gives_all_of_them():
    index = VectorIndex(2, metric="sqeuclidean")
    index.add([[0, 0], [1, 0], [5, 0]], ["a", "b", "c"])
    scores, ids = index.search([[1, 0], [5, 0]], 10)
    assert ids.tolist() == [["b", "a", "c"], ["c", "b", "a"]]
    assert_allclose(scores, [[0, -1, -16], [0, -16, -25]], atol=1e-5)
    index.remove(["b"])
    assert index.search([[1, 0]], 10)[1].tolist() == [["a", "c"]]


def test_an_empty_index_finds_nothing_before_additions_and_after_removing_all():
    index = VectorIndex(2)
    for _ in range(2):
        scores, ids = index.search([[1, 0], [0, 1]], 3)
        assert scores.shape == ids.shape == (2, 0)
        assert len(index) == 0
        index.add([[1, 0]], ["a"])
        index.remove(["a"])
    index.add(np.empty((0, 2)), [])
    assert len(index) == 0
    index.add([[0, 1]], [7])  # another kind of id, now that none is left
    assert index.search([[0, 1]], 1)[1].tolist() == [[7]]


def test_no_queries_give_no_rows():
    index = VectorIndex(2)
    index.add([[1, 0]], ["a"])
    assert index.search(np.empty((0, 2)), 1)[1].shape == (0, 1)


def test_cosines_never_leave_their_range():
    vectors = cloud(200, 7) * 50
    index = VectorIndex(7)
    index.add(vectors, range(200))
    assert np.abs(index.search(vectors, 1)[0]).max() <= 1.0
    assert_array_equal(index.search(vectors, 1)[1][:, 0], np.arange(200))


def test_an_index_knows_which_ids_it_holds():
    index = VectorIndex(2)
    index.add([[1, 0], [0, 1]], np.array(["a", "b"]))
    index.remove(["a"])
    assert ("a" in index, "b" in index, 3 in index) == (False, True, False)


def test_the_callers_vectors_are_neither_changed_nor_kept():
    vectors = cloud(5, 3)
    before = vectors.copy()
    for metric in METRICS:
        index = VectorIndex(3, metric=metric)
        index.add(vectors, range(5))
        expected = index.search(before, 5)
        assert_array_equal(vectors, before)
        vectors[:] = 0
        assert_array_equal(index.search(before, 5)[0], expected[0])
        vectors[:] = before


# -- refusals


@pytest.fixture
def index():
    index = VectorIndex(2, metric="sqeuclidean")
    index.add([[0, 0], [1, 0]], ["a", "b"])
    return index


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        ([[1, 1]], ["a"], "the id 'a' is already present; remove it first, or give another"),
        ([[1, 1], [2, 2]], ["c", "c"], "the id 'c' is already present"),
        ([[1, 1]], [1], "ids must be all strings or all whole numbers, not both"),
        ([[1, 1], [2, 2]], ["c", 1], "ids must be all strings or all whole numbers, not both"),
        ([[1, 1]], [1.5], "an id is a string or a whole number, not 1.5"),
        ([[1, 1]], [True], "an id is a string or a whole number, not True"),
        ([[1, 1]], [None], "an id is a string or a whole number, not None"),
        ([[1, 1]], [2**63], f"an id must fit 64 bits, not {2**63}; give it as a string"),
        ([[1, 1]], ["c\0"], r"an id must not end in a null character, not 'c\\x00'"),
        ([[1, 1]], [], "found 1 vectors but 0 ids; each vector needs one"),
        ([[1, 1]], "cd", "found 1 vectors but 2 ids"),
        ([[1, 1], [np.nan, 0]], ["c", "d"], "vector 1 of 2 holds NaN or infinity"),
        ([[1, 1, 1]], ["c"], r"expected vectors of shape \(n, 2\), got \(1, 3\)"),
        ([1, 1], ["c"], r"expected vectors of shape \(n, 2\), got \(2,\)"),
    ],
)
def test_a_refused_addition_says_why_and_adds_nothing(index, vectors, ids, message):
    with pytest.raises(ValueError, match=message):
        index.add(vectors, ids)
    assert len(index) == 2
    assert index.search([[0, 0]], 9)[1].tolist() == [["a", "b"]]


def test_whole_number_ids_keep_every_digit():
    index = VectorIndex(1, metric="sqeuclidean")
    ids = [2**63 - 1, -(2**63), 2**53 + 1]
    for position, name in enumerate(ids):
        index.add([[position]], [name])
    assert index.search([[0], [1], [2]], 1)[1][:, 0].tolist() == ids


def test_removing_an_unknown_id_names_it_and_removes_nothing(index):
    with pytest.raises(KeyError, match="no vector has the id 'z'"):
        index.remove(["a", "z"])
    assert len(index) == 2
    assert index.search([[0, 0]], 2)[1].tolist() == [["a", "b"]]


def test_an_id_named_twice_in_one_removal_is_removed_once(index):
    index.remove(["a", "a"])
    assert index.search([[0, 0]], 2)[1].tolist() == [["b"]]


@pytest.mark.parametrize("query", [[[np.nan, 0]], [[0, 0, 0]], [0, 0]])
def test_a_query_of_wrong_shape_or_with_nan_is_refused(index, query):
    with pytest.raises(ValueError, match=r"expected vectors of shape \(n, 2\), got|vector 0 of 1 holds NaN"):
        index.search(query, 1)


def test_wrong_arguments_are_named_with_their_value(index):
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, not 0"):
        index.search([[0, 0]], 0)
    with pytest.raises(ValueError, match="dim must be a whole number of at least 1, not 0"):
        VectorIndex(0)
    with pytest.raises(ValueError, match=r"metric must be one of .*, not 'l2'"):
        VectorIndex(2, metric="l2")
    with pytest.raises(ValueError, match="kind must be one of 'auto', 'exact', 'hnsw', not 'ivf'"):
        VectorIndex(2, kind="ivf")


# -- HNSW


def clusters(n, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n // 20, dim)) * 3
    return (centres[rng.integers(0, len(centres), n)] + rng.normal(size=(n, dim))).astype(np.float32)


def recall(index, vectors, ids, query, k):
    found = index.search(query, k)[1]
    expected = brute_force(vectors, ids, query, k, index.metric)[1]
    return np.mean([len(set(f) & set(e)) / k for f, e in zip(found.tolist(), expected.tolist(), strict=True)])


@pytest.mark.parametrize("metric", METRICS)
def test_hnsw_finds_nearly_all_of_the_true_neighbours(metric):
    vectors = clusters(2100)
    index = VectorIndex(24, metric=metric, kind="hnsw")
    index.add(vectors[:1000], range(1000))
    index.add(vectors[1000:2000], range(1000, 2000))
    assert index.approximate
    assert recall(index, vectors[:2000], np.arange(2000), vectors[2000:], 10) >= 0.98
    wrong = VectorIndex(24, metric="inner_product" if metric == "sqeuclidean" else "sqeuclidean", kind="hnsw")
    wrong.add(vectors[:2000], range(2000))
    wrong.metric = metric  # a wrong metric is seen by this number
    assert recall(wrong, vectors[:2000], np.arange(2000), vectors[2000:], 10) < 0.95


def test_hnsw_never_returns_a_removed_id_and_still_finds_the_others():
    vectors = clusters(1500)
    index = VectorIndex(24, kind="hnsw", metric="sqeuclidean")
    index.add(vectors, range(1500))
    gone = np.random.default_rng(0).permutation(1500)[:700]
    index.remove(gone.tolist())
    left = np.setdiff1d(np.arange(1500), gone)
    found = index.search(vectors[gone[:50]], 20)[1]
    assert not set(found.ravel().tolist()) & set(gone.tolist())
    assert recall(index, vectors[left], left, vectors[gone[:50]], 10) >= 0.98
    index.remove(left[:100].tolist())  # more dead than living: laid out anew
    assert index.approximate
    assert index._faiss.ntotal == len(index) == 700
    assert recall(index, vectors[left[100:]], left[100:], vectors[gone[:50]], 10) >= 0.98


def test_what_the_hnsw_graph_does_not_reach_is_found_exactly_never_misnamed():
    # Many equal vectors link to one another only, so that the graph alone does not reach the rest.
    vectors = np.vstack([np.zeros((1500, 8)), cloud(50, 8)])
    index = VectorIndex(8, metric="sqeuclidean", kind="hnsw")
    index.add(vectors, range(1550))
    index.remove(range(700))
    reached = index._faiss.search(index._placed(np.asarray(vectors[-1:], np.float32)), 850)[1]
    assert (reached < 0).any()  # else this test shows nothing
    scores, ids = index.search(vectors[-2:], 850)
    assert [set(row) for row in ids.tolist()] == [set(range(700, 1550))] * 2
    assert_allclose(
        scores, brute_force(vectors[700:], range(700, 1550), vectors[-2:], 850, "sqeuclidean")[0], atol=1e-3
    )


def test_auto_turns_to_hnsw_past_the_limit_and_back_where_few_are_left(monkeypatch):
    monkeypatch.setattr(fewshot.vectors.index, "EXACT_LIMIT", 100)
    vectors = cloud(150)
    index, exact = VectorIndex(16), VectorIndex(16, kind="exact")
    for each in (index, exact):
        each.add(vectors[:100], range(100))
        assert not each.approximate
        each.add(vectors[100:], range(100, 150))
    assert index.approximate
    assert not exact.approximate
    assert recall(index, vectors, np.arange(150), cloud(30, seed=1), 5) >= 0.98
    index.remove(range(80))
    assert not index.approximate
    assert_equals_brute_force(index, vectors[80:], np.arange(80, 150), cloud(30, seed=1), 5)


# -- files


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_loaded_index_answers_as_the_saved_one_and_keeps_its_note_and_arguments(kind, metric, tmp_path):
    index = VectorIndex(16, metric=metric, kind=kind)
    index.note = "fingerprint é 123"
    index.add(cloud(80, mean=100.0), names_of("string", 80))
    index.remove(["image 3"])
    index.save(tmp_path / "index.faiss")
    loaded = VectorIndex.load(str(tmp_path / "index.faiss"))
    assert (loaded.dim, loaded.metric, loaded.kind, loaded.note) == (16, metric, kind, "fingerprint é 123")
    assert (loaded.approximate, len(loaded)) == (kind == "hnsw", 79)
    query = cloud(30, mean=100.0, seed=1)
    for saved, read in zip(index.search(query, 4), loaded.search(query, 4), strict=True):
        assert_array_equal(saved, read)
    loaded.add(cloud(2, mean=100.0, seed=2), ["new 1", "new 2"])
    loaded.remove(["image 4"])
    assert "image 4" not in loaded.search(query, 80)[1]
    assert "new 1" in loaded.search(cloud(1, mean=100.0, seed=2), 1)[1] or metric == "inner_product"
    assert [p.name for p in tmp_path.iterdir()] == ["index.faiss"]


def test_an_empty_index_survives_saving(tmp_path):
    VectorIndex(3).save(tmp_path / "empty")
    loaded = VectorIndex.load(tmp_path / "empty")
    assert len(loaded) == 0
    loaded.add([[1, 0, 0]], ["a"])
    assert loaded.search([[1, 0, 0]], 1)[1].tolist() == [["a"]]


def test_loading_what_is_missing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        VectorIndex.load(tmp_path / "nowhere")


def test_loading_a_foreign_file_names_it(tmp_path):
    path = tmp_path / "foreign"
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "other.npy", np.zeros(3))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    for data in (b"", b"hello", bytes(500), *(file.read_bytes() for file in sorted(tmp_path.glob("*.np*")))):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"foreign is not a vector index written by VectorIndex\.save"):
            VectorIndex.load(path)


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_file_cut_anywhere_or_with_a_changed_byte_is_refused(kind, index, tmp_path):
    path = tmp_path / "cut"
    index = VectorIndex(2, kind=kind)
    index.add(cloud(40, 2), names_of("string", 40))
    index.save(path)
    whole = path.read_bytes()
    for end in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cut is not a vector index"):
            VectorIndex.load(path)
    at = whole.index(np.asarray("image 7", "U8").tobytes())
    path.write_bytes(whole[:at] + b"I" + whole[at + 1 :])
    with pytest.raises(ValueError, match="cut is not a vector index"):
        VectorIndex.load(path)


def test_a_failing_save_leaves_the_old_file_and_no_rest(index, tmp_path, monkeypatch):
    path = tmp_path / "index"
    index.save(path)
    before = path.read_bytes()
    index.add([[9, 9]], ["new"])

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"cannot write .*index: the disk is full; free some space"):
        index.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    assert index.search([[9, 9]], 1)[1].tolist() == [["new"]]


def test_who_reads_the_old_file_while_it_is_replaced_reads_all_of_it(index, tmp_path):
    path = tmp_path / "index"
    index.save(path)
    before = path.read_bytes()
    with open(path, "rb") as reader:
        index.add([[9, 9]], ["new"])
        index.save(path)
        assert reader.read() == before
    assert path.read_bytes() != before


def test_saving_into_a_folder_that_is_not_there_names_it(index, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        index.save(tmp_path / "nowhere" / "index")


def test_a_search_finds_the_same_where_faiss_methods_have_been_replaced_by_those_for_tensors():
    script = """
import faiss, numpy as np
plain = faiss.IndexFlat.search
import faiss.contrib.torch_utils
assert faiss.IndexFlat.search is not plain
from fewshot import NearestNeighborClassifier, VectorIndex
for kind in ("exact", "hnsw"):
    index = VectorIndex(2, metric="sqeuclidean", kind=kind)
    index.add([[0, 0], [1, 0], [5, 0]], ["a", "b", "c"])
    assert index.search([[1, 0]], 3)[1].tolist() == [["b", "a", "c"]]
    index.remove(["b"])
    assert index.search([[1, 0]], 3)[1].tolist() == [["a", "c"]]
print(NearestNeighborClassifier().fit(np.eye(2), ["x", "y"]).predict([[1, 0], [0, 2]]).tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['x', 'y']"
