"""The original's documented commands, run from a checkout as written, with sizes that take seconds."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.end_to_end.tiny import NETWORKS, metrics

from pwm.errors import ConfigError
from pwm.launch.original import multitask_arguments

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
    """Output of a script that must succeed, called in ``folder``."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with the runs of both documented forms of the training command."""
    folder = tmp_path_factory.mktemp("original")
    first = ["general=dflex_ant", "alg=pwm_5M", "general.epochs=1", "seed=42"]
    run(folder, "train_dflex.py", *first, *SHORT)
    second = ["env=dflex_ant", "alg=pwm_48M", "general.seed=42", "general.run_wandb=True"]
    second += ["wandb.project=pwm-flow-matching", "wandb.group=pairs", "general.logdir=outputs"]
    run(folder, "train_dflex.py", *second, *SHORT, "wandb.mode=offline", "general.epochs=1")
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
    assert ast.unparse(last).startswith("if __name__ == '__main__':\n    sys.exit(main([")
    assert len(last.body) == 1


def test_the_multi_task_script_pretrains_and_extracts(tmp_path: Path) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    run_pwm = [sys.executable, "-m", "pwm.launch.cli", "data", "collect", "tasks=pendulum-spin", "episodes=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*run_pwm, "to=data"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    model = [
        word for word in NETWORKS if not any(part in word for part in ("actor", "critic", "termination"))
    ]
    config = ["--config-name", "config_mt30", "alg=pwm_48M_flow", "general.data_dir=data", "general.epochs=1"]
    short = ["alg.horizon=3", "general.progress=false"]
    data = ["tasks=pendulum-spin", "alg.wm_iterations=1", "alg.wm_batch_size=4"]
    # The set has 30 tasks, of which a test collects one.
    pretrained = multitask_arguments([*config, *short, *model, *data[1:]])
    assert pretrained[:2] == ["pretrain", "tasks=mt30"]
    with pytest.raises(ConfigError, match="config_mt30, config_mt80"):
        multitask_arguments(["alg=pwm_48M"])
    command = [sys.executable, "-m", "pwm.launch.cli", "pretrain", *data, *short, *model, "alg=pwm_48M_flow"]
    command += ["data=data", "general.epochs=1"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    task = [
        "general.checkpoint=logs/pendulum-spin/pwm_48M_flow/seed42",
        "task=pendulum-spin",
        "alg=pwm_extract",
    ]
    policy = [
        "alg.actor_iterations=1",
        "general.eval_runs=1",
        "env.episode_length=20",
        "alg.max_model_error=1e9",
    ]
    shown = run(tmp_path, "train_multitask.py", *config[:2], *config[3:], *task, *short, *policy)
    assert "pendulum-spin" in shown
