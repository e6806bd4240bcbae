"""Learning-rate schedules: share of the decay after a share of the run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tests.end_to_end.tiny import ANALYTIC, metrics, trained

from pwm.algorithm.updates import SCHEDULES, Options
from pwm.errors import ConfigError


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_decay_starts_at_nothing_ends_at_all_and_never_turns_back(name: str) -> None:
    passed = [SCHEDULES[name](step / 100) for step in range(101)]
    assert passed[0] == 0.0
    assert passed[-1] == pytest.approx(1.0)
    assert passed[50] == pytest.approx(0.5)
    assert all(a < b for a, b in pairwise(passed))


def test_constant_never_decays() -> None:
    assert {SCHEDULES["constant"](step / 10) for step in range(11)} == {0.0}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1.0, 1.0, 1.0, 0.5]),
        ("cosine", [1.0, 1.0, 1.0, 0.5]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_logged_rates_follow_the_schedule(schedule: str, expected: list[float], tmp_path: Path) -> None:
    folder = trained(
        tmp_path,
        *ANALYTIC,
        "general.epochs=4",
        f"alg.lr_schedule={schedule}",
        "alg.lr_decay_start=0.5",
        "alg.lr_final=0",
    )
    records = metrics(folder)[1:]
    for name, initial in (("wm", 1e-3), ("actor", 3e-4)):
        assert [r[f"lr/{name}"] / initial for r in records] == pytest.approx(expected)


def test_decay_may_start_after_so_many_epochs() -> None:
    """As the share that the epochs are of the run, whose length may change."""
    for epochs, start in ((200, 50), (100, 2), (30, 29)):
        counted, shared = Options(lr_decay_start=start), Options(lr_decay_start=start / epochs)
        found = [counted.decay(epoch, epochs) for epoch in range(epochs)]
        assert found == [shared.decay(epoch, epochs) for epoch in range(epochs)]
        assert found[: start + 1] == [0.0] * (start + 1)
        assert all(0.0 < value < 1.0 for value in found[start + 1 :])
    assert {Options(lr_decay_start=10_000).decay(epoch, 100) for epoch in range(100)} == {0.0}


def test_a_run_shorter_than_its_decay_start_says_so(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match=r"alg.lr_decay_start=10000.0 epochs.*2 epochs.*keep"):
        folder = trained(tmp_path, *ANALYTIC, "general.epochs=2", "alg.lr_decay_start=10000")
    assert {record["lr/wm"] for record in metrics(folder)[1:]} == {1e-3}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr_schedule": "step"}, "linear, cosine, constant"),
        ({"lr_decay_start": 1.0}, "alg.lr_decay_start=1.0; .* a number of epochs above 1"),
        ({"lr_decay_start": -0.1}, "alg.lr_decay_start=-0.1"),
        ({"lr_decay_start": float("inf")}, "alg.lr_decay_start=inf"),
    ],
)
def test_bad_schedules_are_refused(changed: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Options(**changed)  # type: ignore[arg-type]
