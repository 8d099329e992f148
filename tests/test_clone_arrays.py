"""Clones of numpy, pandas and pyarrow objects: through their own reducers, each buffer copied once."""

import pickle
import threading

import pytest

from messagechannel import DataCloneError, MessageChannel, structured_clone

np = pytest.importorskip("numpy", reason="numpy is not installed: make pytest-arrays")


def read_only(array):
    array.flags.writeable = False
    return array


BASE = np.arange(24.0).reshape(4, 6)
ARRAYS = {
    "contiguous": BASE,
    "Fortran order": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "strided": BASE[::2, 1::3],
    "reversed": BASE[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (2, 3)),
    "read-only": read_only(np.arange(5)),
    "no dimensions": np.array(3.5),
    "no items": np.empty((0, 3)),
    "booleans": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["a", "bc"]),
    "bytes": np.array([b"a", b"bc"]),
    "dates": np.array(["2020-01-01", "NaT"], dtype="datetime64[D]"),
    "other byte order": np.arange(3, dtype=">i4"),
    "structured": np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", "f8"), ("c", "U3")]),
    "record": np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "objects": np.array([[1], {"a": 2}, None], dtype=object),
    "masked": np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "matrix": np.ma.array(BASE) * 2,
    "scalar": np.float64(1.5),
    "scalar of text": np.str_("abc"),
    "scalar of a date": np.datetime64("2020-01-01"),
    "record scalar": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])[0],
    "dtype": np.dtype([("a", "i4"), ("b", "f8")]),
    "function": np.sum,
    "universal function": np.add,
}


@pytest.mark.parametrize("value", ARRAYS.values(), ids=ARRAYS)
def test_what_numpy_has_is_cloned_as_pickle_does_it(value):
    clone, model = structured_clone([value, value]), pickle.loads(pickle.dumps(value, 5))
    assert clone[0] is clone[1]
    assert type(clone[0]) is type(model)
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(clone[0], model)
        assert (clone[0].dtype, clone[0].shape, clone[0].strides) == (model.dtype, model.shape, model.strides)
        assert clone[0].flags.writeable == model.flags.writeable
        assert not np.shares_memory(clone[0], value)
    else:
        assert repr(clone[0]) == repr(model)


def test_a_random_generator_goes_on_from_where_it_is():
    value = np.random.default_rng(1)
    value.random(10)
    assert structured_clone(value).random(10).tolist() == value.random(10).tolist()


def test_a_clone_is_writable_and_its_own():
    value = np.arange(1_000_000.0)
    clone = structured_clone(value)
    clone[:] = 0
    assert value[-1] == 999_999
    assert clone.sum() == 0


def test_two_views_of_one_array_are_two_arrays_as_with_pickle():
    base = np.arange(10)
    one, other = structured_clone([base[:5], base[5:]])
    one[:] = 0
    assert other.tolist() == [5, 6, 7, 8, 9]
    assert not np.shares_memory(one, other)


def test_what_is_inside_an_array_of_objects_is_cloned_and_shared():
    inside = [1]
    value = np.array([inside, inside, None], dtype=object)
    value[2] = value
    clone = structured_clone(value)
    assert clone[0] is clone[1]
    assert clone[0] is not inside
    assert clone[2] is clone


def test_a_refused_item_of_an_array_of_objects_is_found():
    with pytest.raises(DataCloneError) as caught:
        structured_clone({"a": np.array([1, 2, threading.Lock()], dtype=object)})
    assert caught.value.path == "$['a'][2]"


def test_a_buffer_is_copied_once(run_python):
    run = run_python("""
import resource
import numpy as np
from messagechannel import structured_clone

value = np.ones(1 << 25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clone = structured_clone(value)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / value.nbytes < 1.1)
""")
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_an_array_is_posted_to_another_thread():
    port1, port2 = MessageChannel()
    sums = []
    receiver = threading.Thread(target=lambda: sums.extend(array.sum() for array in port2))
    receiver.start()
    for number in range(100):
        array = np.full(1000, number)
        port1.post_message(array)
        array[:] = -1
    port1.close()
    receiver.join()
    assert sums == [number * 1000 for number in range(100)]


def test_pandas_objects_are_cloned_as_pickle_does_it():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "number": [1, 2, None],
            "text": ["a", "b", None],
            "list": [[1], [2], [3]],
            "when": pd.date_range("2020-01-01", periods=3, tz="UTC"),
            "category": pd.Categorical(["x", "y", "x"]),
        },
        index=pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["n", "c"]),
    )
    frame.attrs["note"] = ["attribute"]
    clone = structured_clone({"frame": frame, "index": frame.index, "series": frame["number"]})
    pd.testing.assert_frame_equal(clone["frame"], frame)
    pd.testing.assert_index_equal(clone["index"], frame.index)
    pd.testing.assert_series_equal(clone["series"], frame["number"])
    assert clone["frame"].attrs == {"note": ["attribute"]}
    assert clone["frame"]["list"].iloc[0] is not frame["list"].iloc[0]
    clone["frame"].loc[:, "number"] = 0
    assert frame["number"].tolist()[:2] == [1, 2]
    for value in (pd.Timestamp("2020-01-01", tz="UTC"), pd.Timedelta("1s"), pd.Period("2020-01"), pd.NaT, pd.NA):
        assert structured_clone([value])[0] is value or structured_clone([value])[0] == value


def test_pyarrow_objects_are_cloned_as_pickle_does_it():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"number": [1, None, 3], "text": ["a", "b", None], "list": [[1], [], [2, 3]]})
    clone = structured_clone([table, table.schema, table["text"], table["number"].type])
    assert clone[0].equals(table)
    assert clone[1] == table.schema
    assert clone[2].equals(table["text"])
    assert clone[3] == pa.int64()
    array = pa.array(range(1000))
    copied = structured_clone(array)
    assert copied.equals(array)
    assert copied.buffers()[1].address != array.buffers()[1].address
