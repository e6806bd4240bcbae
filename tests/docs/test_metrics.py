"""``docs/metrics.md`` lists exactly the metrics that runs record, and says where each is computed."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tests.end_to_end.tiny import (
    ANALYTIC,
    FLOW,
    HOPPER,
    LOCKSTEP,
    NETWORKS,
    metrics,
    only_run,
    overrides,
    trained,
)
from tests.unit.offline_data import block, write_store

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.launch.cli import main
from pwm.logging.monitoring import memory_usage

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "metrics.md"
# The default horizon, which is part of some names, episodes long enough to look that far ahead, and a
# discount that lets the time limit hide few returns.
LONG = ["alg.horizon=16", "env.episode_length=60", "alg.gamma=0.9"]
RUNS = {
    "closed loop, flow": [*HOPPER, *FLOW, *LONG, "general.esnr_every=2"],
    "lockstep": [*ANALYTIC, *LOCKSTEP],
    "gym": [
        *("env=gym", "env.id=tests.contracts.odd_envs:OddJudging-v0", "general.save_interval=0"),
        *("actor=sac", "alg.entropy_target=-1"),
        *("dynamics=gaussian", "alg.latents=observations"),
    ],
}
# Only a GPU has these; test_gpu_metrics_are_listed looks at them where there is one.
ON_GPU = {"memory/device", "memory/device_peak"}


class Row(NamedTuple):
    """One line of the table."""

    name: str
    unit: str
    meaning: str
    source: str
    healthy: str


def table() -> list[Row]:
    """The lines of the table, without its head."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines[2:]]
    return [row._replace(name=row.name.strip("`")) for row in rows]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of all metrics of each run."""
    found, folders = {}, {}
    for name, options in RUNS.items():
        folder = trained(tmp_path_factory.mktemp("run"), *options)
        found[name] = {key for record in metrics(folder) for key in record}
        folders[name] = folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
        found["extraction"] = _recorded_by_extraction(
            folders["lockstep"], tmp_path_factory.mktemp("extraction")
        )
        found["pretraining"] = _recorded_by_pretraining(tmp_path_factory.mktemp("pretraining"))
    return found


def _recorded_by_extraction(run: Path, folder: Path) -> set[str]:
    """Names of the metrics of a policy that learns from the replay memory of ``run``."""
    assert main(["data", "from-run", str(run), "--to", str(folder / "data")]) == 0
    others = ("num_envs", "buffer_size", "warmup_", "wm_iterations", "collect", "replay_starts", "open_loop")
    words = [word for word in overrides(folder, *ANALYTIC) if not any(f"alg.{key}" in word for key in others)]
    words += ["alg.trainer=extraction", f"alg.data={folder / 'data'}", "alg.max_model_error=1e9"]
    assert main(["train", *words, "alg.behaviour_coef=1"]) == 0
    return {key for record in metrics(only_run(folder)) for key in record}


def _recorded_by_pretraining(folder: Path) -> set[str]:
    """Names of the metrics of a run on two tasks, whose names are replaced by TASK."""
    write_store(folder / "data", [block(1, 3, 20), block(4, 3, 20)])
    sizes = [word for word in NETWORKS if "actor" not in word and "critic" not in word and "term" not in word]
    options = [
        *sizes,
        f"general.logdir={folder}",
        "general.epochs=1",
        "general.progress=false",
        "alg.horizon=16",
    ]
    assert (
        main(["pretrain", f"data={folder / 'data'}", "alg.wm_iterations=1", "alg.wm_batch_size=4", *options])
        == 0
    )
    names = {key for record in metrics(only_run(folder)) for key in record}
    return {re.sub(r"/(walker-walk|reacher-easy)$", "/TASK", name) for name in names}


def test_every_metric_of_a_run_is_listed(recorded: dict[str, set[str]]) -> None:
    listed = {row.name for row in table()}
    missing = {run: names - listed for run, names in recorded.items()}
    assert not any(missing.values()), missing


def test_every_listed_metric_is_recorded(recorded: dict[str, set[str]]) -> None:
    listed = {row.name for row in table()}
    stale = listed - set().union(*recorded.values()) - ON_GPU
    assert not stale
    assert listed >= ON_GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_metrics_are_listed() -> None:
    assert set(memory_usage(torch.device("cuda"))) - set(memory_usage(torch.device("cpu"))) == ON_GPU


def test_every_cell_is_filled_and_every_name_listed_once() -> None:
    rows = table()
    assert len(rows) == len({row.name for row in rows})
    assert not [row.name for row in rows if not all(row)]


def functions(path: Path) -> set[str]:
    """Names of the functions of a file, with their class."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("source", sorted({row.source for row in table()}))
def test_source_of_a_metric_exists(source: str) -> None:
    match = re.fullmatch(r"`([\w/]+\.py)` `([\w.]+)`", source)
    assert match, source
    path = ROOT / "src" / "pwm" / match[1]
    assert path.is_file()
    assert match[2] in functions(path)
