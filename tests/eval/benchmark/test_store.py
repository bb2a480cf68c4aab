import json

import h5py
import numpy as np
import pytest

from eval.benchmark import store as bench

NUM_VIEWS = 6


@pytest.fixture(scope="module")
def result():
    return bench.measure(num_views=NUM_VIEWS, num_reads=10, num_rounds=2, num_writes=1)


def test_every_layout_is_measured(result):
    assert list(result["layouts"]) == list(bench.LAYOUTS)
    for row in result["layouts"].values():
        assert 0 < row["read_us_median"] <= row["read_us_95th"]
        assert len(row["round_medians_us"]) == 2
        assert row["bytes_per_token"] > 35 and row["write_tokens_per_second"] > 0
    assert result["layouts"]["ours"]["times_slower_than_ours"] == 1
    assert result["layouts"]["ours_copied"]["times_slower_than_ours_copied"] == 1
    assert result["layouts"]["pread"]["bytes_per_token"] == result["data_bytes_per_token"] == 40
    assert result["num_views"] == NUM_VIEWS and result["num_reads"] == 10
    assert {"h5py", "HDF5", "datasets", "safetensors"} <= set(result["versions"])


def test_ratios_are_medians_over_rounds():
    assert bench._ratio([10.0, 30.0, 8.0], [5.0, 3.0, 2.0]) == 4.0


def test_table_and_json(result):
    text = bench.table(json.loads(json.dumps(result)))
    assert all(layout.name in text for layout in bench.LAYOUTS.values())
    assert "6, page cache warm" in text and f"HDF5 {h5py.version.hdf5_version}" in text


def reads_wrong(layout, wrong: str):
    """The layout, but what is read is not what was written."""
    def reader(folder, bounds, stack):
        right = layout.reader(folder, bounds, stack)

        def read(view):
            found = right((view + 1) % NUM_VIEWS if wrong == "other view" else view)
            changed = found["values"].copy()
            if wrong == "content" and view == NUM_VIEWS - 1:
                changed[-1, -1] += 1
            changed = changed.astype(np.float32) if wrong == "type" else changed
            return found | {"values": changed[:-1] if wrong == "shape" else changed}

        return read

    return layout._replace(reader=reader)


@pytest.mark.parametrize("wrong", ["content", "other view", "type", "shape"])
def test_a_layout_that_reads_something_else_is_refused(wrong, monkeypatch):
    for name, layout in list(bench.LAYOUTS.items()):
        monkeypatch.setattr(bench, "LAYOUTS", {name: reads_wrong(layout, wrong)})
        with pytest.raises(ValueError,
                           match="reads other (values|indices|log_rest) than were written"):
            bench.measure(num_views=NUM_VIEWS, num_reads=1, num_rounds=1, num_writes=1)


def test_files_are_those_of_the_libraries_usual_use(tmp_path):
    views = bench.make_views(NUM_VIEWS)
    found = {}
    for name in ("h5py_contiguous", "h5py_by_name", "h5py_gzip"):
        folder = tmp_path / name
        folder.mkdir()
        bench.LAYOUTS[name].write(folder, views)
        with h5py.File(folder / "scores.h5", "r") as file:
            found[name] = (file["values"].chunks, file["values"].compression)
            assert file["values"].shape == (600, 8)
            assert file["log_rest"].shape == (600, 2)
    assert found == {"h5py_contiguous": (None, None), "h5py_by_name": ((128, 8), None),
                     "h5py_gzip": ((600, 8), "gzip")}


def test_copies_are_new_memory_and_ours_are_not(tmp_path):
    views, bounds = bench.make_views(2), [0, 100, 200]
    bench.LAYOUTS["ours"].write(tmp_path, views)
    ours = bench.LAYOUTS["ours"].reader(tmp_path, bounds, None)(1)
    copied = bench.LAYOUTS["ours_copied"].reader(tmp_path, bounds, None)(1)
    assert not any(values.flags.owndata for values in ours.values())
    assert all(values.flags.owndata for values in copied.values())


def test_content_is_the_same_each_time():
    first, again = bench.make_views(3), bench.make_views(3)
    for column, values in first[2].items():
        assert np.array_equal(values, again[2][column])
        assert not np.array_equal(values, first[1][column])


def test_main_writes_json_and_prints_the_table(result, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", lambda: result)
    monkeypatch.setattr(bench, "OUT", tmp_path / "store.json")
    bench.main([])
    assert "os.pread of a blob" in capsys.readouterr().out
    written = json.loads((tmp_path / "store.json").read_text())
    assert written.pop("machine")["torch"] and written == result
    with pytest.raises(ValueError, match="takes no arguments, got num_views=3"):
        bench.main(["num_views=3"])
