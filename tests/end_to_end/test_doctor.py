"""``pwm doctor`` says what is here, and what is not with the way to get it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.offline_data import block, write_store

from pwm.errors import EnvError
from pwm.launch import doctor
from pwm.launch.cli import main


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    assert main(["doctor", "--json", *arguments]) == 0
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_what_is_here_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "mixed", [block(1, 2, 9)])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "EXTRAS", {"json": ("here", "a"), "no_such_package": ("absent", "b")})
    findings = found(capsys, "--presets", "pwm_small", "--data", str(tmp_path))
    works = {name for name, finding in findings.items() if finding["works"]}
    assert {"processor", "matrix products", "MuJoCo", "extra here", "alg=pwm_small"} <= works
    assert not {"compiled kernels", "extra absent", "SLURM"} & works
    assert findings["extra absent"]["remedy"] == 'pip install "flow-pwm[absent]"'
    assert "100,000 environment steps of dflex_hopper in about" in str(findings["alg=pwm_small"]["text"])


def test_data_sets_are_listed_and_damaged_ones_named(tmp_path: Path) -> None:
    write_store(tmp_path / "mixed", [block(1, 2, 9)])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    broken, mixed = doctor.data_sets(tmp_path)
    assert (broken.works, mixed.works) == (False, True)
    assert "broken" in broken.text
    assert mixed.text == f"{tmp_path / 'mixed'}: mt30, 30 tasks"


def test_a_machine_that_cannot_train_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise EnvError("no simulator")

    monkeypatch.setattr("pwm.configuration.building.build_env", failing)
    assert main(["doctor", "--presets"]) == 1
    assert "no simulator; pip install flow-pwm" in capsys.readouterr().out


def test_unknown_presets_are_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--presets", "pwm_smal"]) == 2
    assert "pwm_smal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (12, "12 seconds"),
        (89, "89 seconds"),
        (90, "1.5 minutes"),
        (3600, "60 minutes"),
        (86400 * 250, "250 days"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert doctor.duration(seconds) == words
