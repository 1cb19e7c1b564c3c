"""The benchmarks of training, on a tiny model: their tables hold together."""

from __future__ import annotations

import pytest

from benchmarks import training, training_scaling


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_step_is_compared_with_a_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    training.main(batch=2, repeats=1, precision="fp32", tiny=True)
    table = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0] == ["median of 1", "ours, fp32", "plain loop, fp32", "plain / ours"]
    rows = {name: values for name, *values in table[2:]}
    ours, plain, ratio = (float(value) for value in rows["seconds per step"])
    assert ratio == pytest.approx(plain / ours, rel=0.1)  # of rounded numbers
    assert float(rows["clips per second"][0]) == pytest.approx(2 / ours, rel=0.1)
    (share,) = (values for name, values in rows.items() if name.startswith("share of "))
    assert share[0].endswith("%")


def test_memory_per_clip_is_less_with_gradient_checkpointing() -> None:
    (plain, *values), (checkpointing, *fewer) = map(cells, training_scaling.memory_rows("tiny", ("fp32",)))
    assert (plain, checkpointing) == ("fp32", "fp32, gradient checkpointing")
    assert float(fewer[0]) == pytest.approx(float(values[0]), rel=0.1)  # weights, gradients, moments and average
    assert float(fewer[1]) < 0.9 * float(values[1])
    assert int(fewer[2]) > int(values[2])  # so more clips fit
    assert float(fewer[4]) > float(values[4])  # and more is computed
