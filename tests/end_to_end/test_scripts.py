"""The original's documented commands, run from a checkout as written, with sizes that take seconds."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from tests.end_to_end.tiny import NETWORKS, metrics

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.errors import ConfigError
from pwm.launch.cli import main
from pwm.launch.multitask import multitask_arguments, run_multitask

wandb = pytest.importorskip("wandb")

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
# What makes the documented training commands short; everything else is typed as documented.
SHORT = [
    *NETWORKS,
    "alg.num_envs=4",
    "alg.horizon=4",
    "alg.actor_batch_size=8",
    "alg.wm_batch_size=8",
    "alg.wm_iterations=2",
    "alg.buffer_size=2000",
    "alg.warmup_env_steps=40",
    "alg.warmup_updates=2",
    "env.episode_length=20",
    "env.num_threads=1",
    "general.eval_runs=2",
]


def run(folder: Path, script: str, *arguments: str) -> str:
    """Output of a script that must succeed, run as a program in ``folder``."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        if script == "train_dflex.py":
            # Pictures have a script of their own.
            patch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
        patch.setattr(sys, "argv", [script, *arguments])
        patch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert ended.value.code == 0
    return shown.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with the runs of both documented forms of the training command."""
    folder = tmp_path_factory.mktemp("original")
    first = ["general=dflex_ant", "alg=pwm_5M", "general.epochs=1", "seed=42"]
    run(folder, "train_dflex.py", *first, *SHORT)
    second = ["env=dflex_ant", "alg=pwm_48M", "general.seed=42", "general.run_wandb=True"]
    second += ["wandb.project=pwm-flow-matching", "wandb.group=pairs", "general.logdir=outputs"]
    run(folder, "train_dflex.py", *second, *SHORT, "wandb.mode=offline", "general.epochs=1")
    wandb.teardown()
    return folder


def test_both_forms_of_training_leave_a_run(folder: Path) -> None:
    first = folder / "logs" / "dflex_ant" / "pwm_5M" / "seed42"
    second = folder / "outputs" / "dflex_ant" / "pwm_48M" / "seed42"
    for path in (first, second):
        assert len(metrics(path)) == 2
        assert json.loads((path / "status.json").read_text())["state"] == "finished"
        assert (path / "best_policy.pt").is_file()
    assert list((second / "wandb").glob("offline-run-*"))


def test_pictures_of_a_run(folder: Path) -> None:
    path = folder / "logs" / "dflex_ant" / "pwm_5M" / "seed42"
    pictures = run(folder, "generate_visualizations.py", "--log-dir", str(path)).split()
    assert len(pictures) == 4
    assert all(Path(picture).is_file() for picture in pictures)


def test_policies_by_a_pattern(folder: Path) -> None:
    shown = run(
        folder, "evaluate_policy.py", "--checkpoint", "outputs/*/*/*/best_policy.pt", "--episodes", "2"
    )
    assert "pwm_48M" in shown.splitlines()[1]
    assert "best" in shown.splitlines()[1]


def test_every_checkpoint_below_a_folder(folder: Path) -> None:
    shown = run(folder, "evaluate_all_checkpoints.py", "--episodes", "1")
    assert "peak against final" in shown
    assert (folder / "logs" / "checkpoints.json").is_file()
    assert (folder / "logs" / "checkpoints.csv").is_file()


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_hold_no_logic(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    *others, last = tree.body[1:]
    assert all(isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign)) for node in others)
    assert re.match(r"if __name__ == '__main__':\n    sys.exit\((main\(\[|run_)", ast.unparse(last))
    assert len(last.body) == 1


def test_the_multi_task_script_pretrains_and_extracts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
    monkeypatch.chdir(tmp_path)
    assert main(["data", "collect", "tasks=pendulum-spin", "episodes=2", "to=data"]) == 0
    others = ("actor", "critic", "termination")
    model = [word for word in NETWORKS if not any(part in word for part in others)]
    named = ["--config-name", "config_mt30", "general.data_dir=data", "general.epochs=1"]
    size = ["alg=pwm_48M_flow", "alg.horizon=3", "general.progress=false"]
    # The set has 30 tasks, of which a test collects one.
    pretrained = multitask_arguments([*named, *size, *model])
    assert pretrained[:3] == ["pretrain", "tasks=mt30", "data=data"]
    short = ["alg.wm_iterations=1", "alg.wm_batch_size=4"]
    assert main(["pretrain", "tasks=pendulum-spin", *pretrained[2:], *short]) == 0
    task = ["general.checkpoint=logs/pendulum-spin/pwm_48M_flow/seed42", "task=pendulum-spin"]
    policy = ["alg.actor_iterations=1", "general.eval_runs=1", "env.episode_length=20"]
    assert "pendulum-spin" in run(
        tmp_path,
        "train_multitask.py",
        *named,
        "alg=pwm_extract",
        *size[1:],
        *task,
        *policy,
        "alg.max_model_error=1e9",
    )


def test_the_multi_task_script_names_its_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="config_mt30, config_mt80"):
        multitask_arguments(["alg=pwm_48M"])
    assert run_multitask(["--config-name", "config_mt31"]) == 2
    assert "config_mt31" in capsys.readouterr().err
