"""Metrics of verl's file logger: half lines, resumed attempts, curves."""

from pathlib import Path

import pytest

from rmbatch.training.metrics import first_value, join_attempts, last_value, plot_curves, read_metrics, series

FIRST = """{"step":0,"data":{"held_out/accuracy":0.5,"note":"text","bad":null}}
{"step":1,"data":{"train/loss":0.7}}
{"step":1,"data":{"train/lr":0.1}}
{"step":2,"data":{"train/loss":0.6}}
{"step":3,"data":{"train/loss":0.5}}
{"step":4,"data":{"train/lo"""
SECOND = '{"step":2,"data":{"train/total_steps":4}}\n{"step":3,"data":{"train/loss":0.45}}\n'


def test_half_lines_and_texts_are_left_out() -> None:
    points = read_metrics(FIRST)
    assert points == {
        0: {"held_out/accuracy": 0.5},
        1: {"train/loss": 0.7, "train/lr": 0.1},
        2: {"train/loss": 0.6},
        3: {"train/loss": 0.5},
    }
    assert read_metrics("") == {}


def test_resumed_attempt_counts_from_its_first_step() -> None:
    points = join_attempts([read_metrics(FIRST), {}, read_metrics(SECOND)])
    assert series(points, "train/loss") == [(1, 0.7), (2, 0.6), (3, 0.45)]
    assert points[2] == {"train/loss": 0.6, "train/total_steps": 4.0}
    assert (first_value(points, "train/loss"), last_value(points, "train/loss")) == (0.7, 0.45)
    assert last_value(points, "unknown") is None


def test_curves_are_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "curves.png"
    assert plot_curves(read_metrics(FIRST), {"loss": ("train/loss",), "nothing": ("x",)}, str(file))
    assert file.read_bytes()[:4] == b"\x89PNG"
    assert not plot_curves({}, {"loss": ("train/loss",)}, str(tmp_path / "none.png"))
