"""``pwm diff`` and ``pwm plot`` on real run folders, whole, cut off and damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.end_to_end.tiny import ANALYTIC, metrics, overrides, trained

from pwm.analysis.plots import style
from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.analysis.tables.records import load_records
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.errors import ConfigError, DataError
from pwm.launch.cli import main

PICTURES = ["learning_curves.png", "world_model_losses.png", "gradient_norms.png", "training_summary.png"]
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished run; not to be changed."""
    return trained(tmp_path_factory.mktemp("run"), *ANALYTIC)


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """Run a command; returns its exit code and the lines of its output (of its message if it failed)."""

    def command(*arguments: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, (output.err if code == 2 else output.out).splitlines()

    return command


def rewrite(folder: Path, change: Callable[[Records], Records]) -> None:
    """Change the records of a run's ``metrics.jsonl``."""
    lines = [json.dumps(record) + "\n" for record in change(metrics(folder))]
    (folder / "metrics.jsonl").write_text("".join(lines))


# --- diff -----------------------------------------------------------------------------------------


def test_a_run_does_not_differ_from_itself(original: Path, shown: Callable) -> None:
    code, lines = shown("diff", original, original)
    assert code == 0
    digest = (original / "config.sha256").read_text().strip()
    assert lines == [
        f"a: {original}  config {digest}",
        f"b: {original}  config {digest}",
        "configuration, identity (decides the results): same",
        "configuration, operational (does not): same",
        "made with: same",
    ]


def write_config(folder: Path, *changes: str) -> Path:
    """Let ``folder`` be a run with ``changes`` to the tiny configuration of ``original``."""
    config = compose_config(overrides(Path("elsewhere"), *ANALYTIC, *changes))
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder


def test_operational_differences_leave_the_identity(original: Path, run: Path, shown: Callable) -> None:
    write_config(run, "general.deterministic=true", "general.name=other")
    code, lines = shown("diff", original, run)
    assert code == 0
    assert lines[0].split()[-1] == lines[1].split()[-1]
    assert lines[2] == "configuration, identity (decides the results): same"
    before = ExperimentConfig.load(original / "config.yaml").general.logdir
    assert lines[3:] == [
        "configuration, operational (does not): 3 different",
        "  general.deterministic: False -> True",
        f"  general.logdir: {before} -> elsewhere",
        "  general.name: None -> other",
        "made with: same",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("general.seed=7", "general.seed: 42 -> 7"),
        ("alg.gamma=0.9", "alg.gamma: 0.995 -> 0.9"),
        ("alg.dynamics.units=[16,8]", "alg.dynamics.units: [16] -> [16, 8]"),
        ("env.episode_length=41", "env.episode_length: 40 -> 41"),
    ],
)
def test_another_identity_is_exit_code_1(
    change: str, line: str, original: Path, run: Path, shown: Callable
) -> None:
    write_config(run, change)
    code, lines = shown("diff", original, run)
    assert code == 1
    assert lines[0].split()[-1] != lines[1].split()[-1]
    assert lines[2:4] == ["configuration, identity (decides the results): 1 different", f"  {line}"]
    # The other way round it reads the other way round.
    code, lines = shown("diff", run, original)
    before, after = line.split(": ")[1].split(" -> ")
    assert (code, lines[3]) == (1, f"  {line.split(':')[0]}: {after} -> {before}")


def test_keys_of_one_component_are_absent_in_the_other(original: Path, run: Path, shown: Callable) -> None:
    write_config(run, "dynamics=flow")
    code, lines = shown("diff", original, run)
    assert code == 1
    assert "  alg.dynamics.integrator: (absent) -> euler" in lines
    assert "  alg.dynamics.name: mlp -> flow" in lines


def test_what_the_runs_were_made_with_is_compared(original: Path, run: Path, shown: Callable) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    before = json.loads(json.dumps(manifest))
    manifest |= {"git_commit": "0" * 40, "threads": 99, "device": "an abacus", "command": "pwm train x=1"}
    manifest["versions"]["torch"] = "0.0"
    manifest["parameters"]["actor"] = 1
    (run / "manifest.json").write_text(json.dumps(manifest))
    code, lines = shown("diff", original, run)
    assert code == 0
    assert lines[-6:] == [
        "made with: 5 different",
        f"  device: {before['device']} -> an abacus",
        f"  git_commit: {before['git_commit']} -> {'0' * 40}",
        f"  parameters.actor: {before['parameters']['actor']} -> 1",
        f"  threads: {before['threads']} -> 99",
        f"  versions.torch: {before['versions']['torch']} -> 0.0",
    ]


def test_a_commit_with_changes_nobody_knows_is_no_equality(
    original: Path, tmp_path: Path, shown: Callable
) -> None:
    runs = [shutil.copytree(original, tmp_path / name) for name in "ab"]
    for name, line in (("0-dirty", "1 different"), ("0-dirty.1a2b3c4d", "same")):
        for run in runs:
            manifest = json.loads((run / "manifest.json").read_text()) | {"git_commit": name}
            (run / "manifest.json").write_text(json.dumps(manifest))
        _, lines = shown("diff", *runs)
        (at,) = [number for number, text in enumerate(lines) if text.startswith("made with: ")]
        assert lines[at] == f"made with: {line}"
        rest = ["  git_commit: 0-dirty -> 0-dirty (uncommitted changes that are not known)"]
        assert lines[at + 1 :] == (rest if line != "same" else [])


def test_a_configuration_alone_can_be_compared(original: Path, run: Path, shown: Callable) -> None:
    code, lines = shown("diff", original, original / "config.yaml")
    assert code == 0
    assert lines[-1] == f"made with: not known for {original / 'config.yaml'} (no manifest.json)"
    (run / "manifest.json").unlink()
    code, lines = shown("diff", run, original)
    assert (code, lines[-1]) == (0, f"made with: not known for {run} (no manifest.json)")


def broken_run(run: Path, fault: str) -> Path:
    """Make the copied run unusable; returns the file or folder that the message must name."""
    if fault == "no run":
        (run / "config.yaml").unlink()
        return run
    if fault == "nowhere":
        shutil.rmtree(run)
        return run
    name, content = {
        "no yaml": ("config.yaml", b"general: [1, 2"),
        "no text": ("config.yaml", b"\xff\xfe\x00"),
        "list": ("config.yaml", b"- 1\n- 2\n"),
        "word": ("config.yaml", b"hello\n"),
        "unknown key": ("config.yaml", (run / "config.yaml").read_bytes() + b"more: 1\n"),
        "wrong type": ("config.yaml", (run / "config.yaml").read_bytes().replace(b"seed: 42", b"seed: x")),
        "manifest cut": ("manifest.json", (run / "manifest.json").read_bytes()[:-3]),
        "manifest list": ("manifest.json", b"[]"),
    }[fault]
    (run / name).write_bytes(content)
    return run / name


@pytest.mark.parametrize(
    "fault",
    [
        "no run",
        "nowhere",
        "no yaml",
        "no text",
        "list",
        "word",
        "unknown key",
        "wrong type",
        "manifest cut",
        "manifest list",
    ],
)
def test_what_is_no_run_is_exit_code_2(fault: str, original: Path, run: Path, shown: Callable) -> None:
    named = broken_run(run, fault)
    for arguments in ((original, run), (run, original)):
        code, lines = shown("diff", *arguments)
        assert code == 2
        assert len(lines) == 1
        assert lines[0].startswith(f"pwm: {named} ")


def test_a_stored_configuration_survives_the_round_trip(original: Path, tmp_path: Path) -> None:
    config = ExperimentConfig.load(original / "config.yaml")
    assert config.hash() == (original / "config.sha256").read_text().strip()
    assert config.to_yaml() == (original / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        ExperimentConfig.load(tmp_path / "nowhere.yaml")


def test_a_configuration_without_a_newer_option_takes_its_default(run: Path) -> None:
    path = run / "config.yaml"
    now = ExperimentConfig.load(path)
    lines = [line for line in path.read_text().splitlines(keepends=True) if "deterministic" not in line]
    path.write_text("".join(lines))
    older = ExperimentConfig.load(path)
    assert older.to_dict() == now.to_dict()
    assert older.hash() == now.hash()


def test_resume_names_a_damaged_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], original: Path
) -> None:
    folder = tmp_path / original.relative_to(original.parents[2])
    shutil.copytree(original, folder)
    (folder / "config.yaml").write_text("general: [1, 2")
    assert main(["train", *overrides(tmp_path, *ANALYTIC)]) == 2
    assert f"pwm: {folder / 'config.yaml'} cannot be read" in capsys.readouterr().err


# --- plot -----------------------------------------------------------------------------------------


def assert_pictures(folder: Path) -> None:
    """All four pictures are there, complete, and nothing else was left behind."""
    for name in PICTURES:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        assert content.endswith(b"IEND\xaeB`\x82")
    assert not list(folder.glob("*.tmp"))


def test_plot_draws_every_run_from_its_metrics_alone(run: Path, tmp_path: Path, shown: Callable) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "metrics.jsonl", bare)
    code, lines = shown("plot", run, bare)
    assert code == 0
    assert lines == [str(folder / name) for folder in (run, bare) for name in PICTURES]
    assert {path.name for path in bare.iterdir()} == {"metrics.jsonl", *PICTURES}
    assert_pictures(run)
    assert_pictures(bare)


PARTIAL: dict[str, Callable[[Records], Records]] = {
    "epoch 0 only": lambda records: records[:1],
    "no evaluation": lambda records: [
        {k: v for k, v in r.items() if not k.startswith("eval/")} for r in records[1:]
    ],
    "nothing but null": lambda records: [{}, *(dict.fromkeys(record) for record in records), {}],
    "null every other time": lambda records: [
        record if number % 2 else dict.fromkeys(record) for number, record in enumerate(records)
    ],
}


@pytest.mark.parametrize("name", PARTIAL)
def test_incomplete_metrics_are_drawn(name: str, run: Path, shown: Callable) -> None:
    rewrite(run, PARTIAL[name])
    code, lines = shown("plot", run)
    assert (code, len(lines)) == (0, 4)
    assert_pictures(run)


def test_a_partial_last_line_is_left_out(run: Path) -> None:
    path = run / "metrics.jsonl"
    whole = metrics(run)
    path.write_bytes(path.read_bytes()[:-20])
    assert load_records(run) == whole[:-1]


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1))
def test_a_file_cut_anywhere_keeps_its_complete_records(
    original: Path, tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    content = (original / "metrics.jsonl").read_bytes()
    part = content[: round(cut * len(content))]
    (folder / "metrics.jsonl").write_bytes(part)
    complete = part.count(b"\n")
    if complete:
        assert load_records(folder) == metrics(original)[:complete]
    else:
        with pytest.raises(DataError, match=r"metrics\.jsonl is empty"):
            load_records(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b'{"epoch": 0}\n{"epoch": \n{"epoch": 2}\n'),
        ("metrics.jsonl", b"\xff\xfe\n"),
        ("metrics.jsonl", b"[1]\n"),
        ("metrics.jsonl", b'{"epoch": "first"}\n'),
        ("metrics.jsonl", b'{"epoch": true}\n'),
        ("metrics.jsonl", b""),
        ("reference.json", b'{"zero_action": null}'),
        ("reference.json", b"{"),
        ("config.yaml", b"a: [1"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"- 1"),
        ("config.yaml", b"env: pendulum"),
    ],
)
def test_damaged_files_are_named(name: str, content: bytes, run: Path, shown: Callable) -> None:
    (run / name).write_bytes(content)
    code, lines = shown("plot", run)
    assert code == 2
    assert lines[0].startswith(f"pwm: {run / name} ")


@pytest.mark.parametrize("kind", ["nowhere", "empty folder", "file"])
def test_what_is_no_run_is_refused_before_anything_is_drawn(
    kind: str, run: Path, tmp_path: Path, shown: Callable
) -> None:
    other = tmp_path / "other"
    if kind == "empty folder":
        other.mkdir()
    elif kind == "file":
        other.write_text("x")
    code, lines = shown("plot", run, other)
    assert code == 2
    assert f"{other} is not a run folder" in lines[0]
    assert not list(run.glob("*.png"))


def test_a_folder_that_cannot_be_written_to_is_named(run: Path, shown: Callable) -> None:
    # A folder in the place of a picture refuses even the superuser.
    (run / PICTURES[0] / "x").mkdir(parents=True)
    code, lines = shown("plot", run)
    assert code == 2
    assert f"{run / PICTURES[0]} cannot be written" in lines[0]


# --- what the learning curves show ----------------------------------------------------------------


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[Axes]]:
    """Panels of a run's learning curves, by environment steps and by wall time."""

    def draw(folder: Path) -> list[Axes]:
        drawn: list[Figure] = []
        save = style.save_figure
        with monkeypatch.context() as patch:
            patch.setattr(style, "save_figure", lambda figure, p: [drawn.append(figure), save(figure, p)][1])
            TrainingVisualizer(folder).plot_learning_curves()
        return drawn[0].axes

    return draw


def evaluations(folder: Path) -> tuple[np.ndarray, ...]:
    """Steps, minutes, mean and spread of a run's evaluations."""
    records = [r for r in metrics(folder) if "eval/episode_return" in r]
    keys = ("env_steps", "wall_time", "eval/episode_return", "eval/episode_return_std")
    steps, seconds, mean, spread = (np.array([r[key] for r in records]) for key in keys)
    return steps, seconds / 60, mean, spread


def test_learning_curves_show_returns_with_their_spread_over_steps_and_time(
    run: Path, curves: Callable[[Path], list[Axes]]
) -> None:
    steps, minutes, mean, spread = evaluations(run)
    assert len(mean) == 4
    assert (spread > 0).all()
    panels = curves(run)
    assert [axes.get_xlabel() for axes in panels] == ["environment steps", "wall time (minutes)"]
    for axes, x in zip(panels, (steps, minutes), strict=True):
        (line,) = [line for line in axes.lines if line.get_label() == "evaluated, mean ± std"]
        np.testing.assert_allclose(line.get_xdata(), x)
        np.testing.assert_allclose(line.get_ydata(), mean)
        (band,) = axes.collections
        corners = {tuple(np.round(corner, 6)) for corner in band.get_paths()[0].vertices}
        for expected in (mean - spread, mean + spread):
            assert {tuple(np.round(point, 6)) for point in zip(x, expected, strict=True)} <= corners


def test_spread_of_a_single_evaluation_is_a_bar(run: Path, curves: Callable[[Path], list[Axes]]) -> None:
    rewrite(run, lambda records: records[:1])
    steps, _, mean, spread = evaluations(run)
    axes = curves(run)[0]
    (bar,) = axes.collections
    ends = bar.get_paths()[0].vertices
    np.testing.assert_allclose(ends, [[steps[0], mean[0] - spread[0]], [steps[0], mean[0] + spread[0]]])


def test_an_evaluation_without_spread_interrupts_the_band(
    run: Path, curves: Callable[[Path], list[Axes]]
) -> None:
    steps = evaluations(run)[0]
    without = "eval/episode_return_std"
    rewrite(run, lambda records: [{**r, without: None} if r["epoch"] == 3 else r for r in records])
    axes = curves(run)[0]
    (line,) = [line for line in axes.lines if line.get_label() == "evaluated, mean ± std"]
    assert len(line.get_xdata()) == 4
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 0].max() == steps[2]
    rewrite(run, lambda records: [{**r, without: None} for r in records])
    assert not curves(run)[0].collections
