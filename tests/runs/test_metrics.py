"""The log has means, one line per entry and each step once; a non-finite loss stops the run."""

import json
import re

import jax.numpy as jnp
import pytest

from maskrcnn_jax.runs.metrics import MetricsLog


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_entries_hold_means_over_the_steps_since_the_last(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.add(1, {"loss": jnp.array(1.0)})
    log.add(2, {"loss": jnp.array(3.0)})
    means = log.flush(2, 4, learning_rate=0.5)
    log.add(3, {"loss": jnp.array(7.0)})
    log.flush(3, 4)
    log.close()
    first, second = read(tmp_path / "metrics.jsonl")
    assert (first["step"], first["loss"], first["learning_rate"]) == (2, 2.0, 0.5)
    assert (second["step"], second["loss"]) == (3, 7.0)
    assert means["images_per_second"] > 0


def test_resume_drops_later_entries_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"step": 4')
    log = MetricsLog(path, 20)
    log.write(30, {"loss": 1.0})
    log.close()
    assert [entry["step"] for entry in read(path)] == [10, 20, 30]


@pytest.mark.parametrize(
    "damaged", ["\0\0\0\0", "[]", '{"loss": 1.0}', '{"step": "10"}', "3", "\ufffd{"]
)
def test_a_damaged_line_is_named_unless_it_is_the_last(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 5}}\n{damaged}\n{{"step": 20}}\n')
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: an entry must be an object")):
        MetricsLog(path, 20)
    path.write_text(f'{{"step": 5}}\n{damaged}\n')
    MetricsLog(path, 20).close()
    assert [entry["step"] for entry in read(path)] == [5]


HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    "broken", ["3", "[]", '{"AP": "x"}', '{"AP": null}', "{}", f'{{"AP": {HUGE}}}']
)
def test_an_evaluation_without_its_ap_is_named(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 5, "bbox": {broken}}}\n{{"step": 20}}\n')
    with pytest.raises(ValueError, match="line 1: the evaluation has no AP"):
        MetricsLog(path, 20)


def test_bytes_that_are_no_text_are_a_damaged_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 5}\n\xff\xfe\n{"step": 20}\n')
    with pytest.raises(ValueError, match="line 2"):
        MetricsLog(path, 20)


def test_entries_are_kept_as_they_were_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.add(1, {"loss": jnp.array(0.1), "positive_rois": jnp.array(float("nan"))})
    log.flush(1, 4, learning_rate=1 / 3)
    log.close()
    written = path.read_bytes()
    MetricsLog(path, 1).close()
    assert path.read_bytes() == written


@pytest.mark.parametrize(
    "numbers, ap",
    [
        ({"bbox": {"AP": 0.5}, "segm": {"AP": 0.25}}, 0.25),
        ({"bbox": {"AP": 0.5}}, 0.5),  # A model without masks.
    ],
)
def test_an_evaluation_is_in_the_log_once(tmp_path, numbers, ap):
    path = tmp_path / "metrics.jsonl"
    for start in (0, 4):
        log = MetricsLog(path, start)
        log.write_evaluation(4, numbers)
        assert log.ap == {4: ap}
        log.close()
    assert [entry["step"] for entry in read(path)] == [4]
    log = MetricsLog(path, 3)  # The run resumes from a checkpoint before the evaluation.
    assert log.ap == {}
    log.close()


def test_one_process_writes_and_all_know(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "bbox": {"AP": 0.75}, "segm": {"AP": 0.5}}\n')
    log = MetricsLog(path, 2, writes=False)
    log.add(3, {"loss": jnp.array(1.0)})
    assert log.flush(3, 4)["loss"] == 1.0 and log.ap == {2: 0.5}
    log.close()
    assert [entry["step"] for entry in read(path)] == [2]


@pytest.mark.parametrize(
    "name, value", [("loss_mask", float("nan")), ("gradient_norm", float("inf"))]
)
def test_a_loss_that_is_not_finite_stops_the_run_by_name(tmp_path, name, value):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.add(
        6, {"loss_mask": jnp.array(0.5), "loss_box_reg": jnp.array(0.25), name: jnp.array(value)}
    )
    with pytest.raises(FloatingPointError, match=r"step 6 .*loss_box_reg 0.25.*") as error:
        log.settle()
    assert f"{name} {value:.4g}" in str(error.value)
    log.close()


def test_diagnostics_may_be_anything(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.add(1, {"loss": jnp.array(1.0), "positive_rois": jnp.array(float("nan"))})
    log.settle()
    log.close()
