"""Every shipped experiment file makes a plan that is complete, fair and declared; mistakes are named."""

from __future__ import annotations

import functools
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from tests.end_to_end.tiny import SIZES
from tests.unit.offline_data import MT30, block, write_store

from pwm.analysis.cost.operations import match_compute
from pwm.configuration.config import compose_config, diff
from pwm.configuration.overrides import last_of_each
from pwm.errors import ConfigError
from pwm.launch.cli import main
from pwm.study.experiment_file import experiment_names, load_experiment
from pwm.study.plan import ExperimentPlan, make_plan, require_parity
from pwm.study.plan_table import plan_in_words

# One that begins from data is planned with some of its own.
MULTITASK = "multitask_flow_vs_mlp"
NAMES = [name for name in experiment_names() if name != MULTITASK]
# Wide enough that LayerNorm's few parameters do not decide parity.
WIDE = ["alg.latent_dim=32", "alg.dynamics.units=[32]", "alg.encoder_units=[32]"]
SMALL = last_of_each(["env=analytic", *SIZES, *WIDE])


def without(*starts: str) -> list[str]:
    return [override for override in SMALL if not override.startswith(starts)]


ARGUMENTS = {
    "compute_matched": SMALL,
    # Its arms differ in these; the most environments need the longest warm-up.
    "horizon_sweep": [
        *without("alg.horizon", "alg.num_envs", "alg.warmup_env_steps"),
        "alg.warmup_env_steps=640",
    ],
}


# Widths of networks that make arms equal on tasks of some widths only: a task that has them.
LIKE_ITS_TASKS = {"where_flow_pays": ["env.state_dim=10"]}


@functools.cache
def plan(name: str, *overrides: str) -> ExperimentPlan:
    task = ["env=analytic", *LIKE_ITS_TASKS.get(name, [])]
    return make_plan(load_experiment([f"experiment={name}", *task, *overrides]))


def refusal(*overrides: str) -> str:
    """The message with which an experiment is refused."""
    with pytest.raises(ConfigError) as refused:
        require_parity(make_plan(load_experiment(list(overrides))))
    return str(refused.value)


def test_the_promised_files_are_there() -> None:
    promised = {"flow_vs_mlp", "integrator_sweep", "compute_matched", "horizon_sweep", "velocity_head"}
    promised |= {"cpu_suite", "cpu_ablations", "where_flow_pays"}
    promised |= {"flow_policy", "original_sizes_5M", "gradient_quality", "recorded_data_first"}
    assert promised <= set(NAMES)
    assert MULTITASK in experiment_names()


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_composes_and_is_the_same_size(name: str) -> None:
    found = plan(name, "seeds=[1,2]")
    require_parity(found)
    assert found.cells[0].arm == found.experiment.baseline
    assert {cell.arm for cell in found.cells} == set(found.experiment.arms)
    assert Counter(run.seed for run in found.runs) == {1: len(found.cells), 2: len(found.cells)}
    assert len({run.folder for run in found.runs}) == len(found.runs)
    last = found.runs[-1]
    assert compose_config(last.overrides).to_dict() == last.config.to_dict()
    assert last.config.general.seed == last.seed
    for run in found.runs:
        assert run.folder.parts[-3:] == ("analytic_lqr", run.cell.arm, f"seed{run.seed}")


def test_widths_that_are_given_are_right_on_the_tasks_they_are_given_for() -> None:
    whole = load_experiment(["experiment=where_flow_pays"])
    assert len(whole.tasks) == 18
    tasks = f"tasks=[{', '.join(task for task in whole.tasks if 'disturbance' not in task)}]"
    found = make_plan(load_experiment(["experiment=where_flow_pays", tasks, "env.disturbance=pushes"]))
    names = {f"{name}+pushes1" for name in ("dflex_hopper", "gym_Reacher-v5", "gym_Swimmer-v5")}
    assert {cell.task for cell in found.cells} == names
    require_parity(found)


@pytest.mark.parametrize("name", NAMES)
def test_arms_differ_in_what_is_declared_and_in_nothing_else(name: str) -> None:
    found = plan(name, "seeds=[1,2]")
    baseline, *others = found.cells
    declared = found.experiment.declared
    for cell in others:
        keys = [line.split(":")[0] for line in diff(baseline.config.identity(), cell.config.identity())]
        # What the name of a preset stands for is compared.
        keys = [key for key in keys if key != "preset"]
        assert keys, cell.arm
        assert [key for key in keys if not any(fnmatchcase(key, p) for p in declared)] == []
    every = {
        line.split(":")[0]
        for cell in others
        for line in diff(baseline.config.identity(), cell.config.identity())
    }
    configured = [pattern for pattern in declared if not pattern.startswith("runs.")]
    idle = [pattern for pattern in configured if not any(fnmatchcase(key, pattern) for key in every)]
    assert not idle


# Arms that differ in their components and in the number of updates, and some that differ in other options.
@pytest.mark.parametrize("name", ARGUMENTS)
def test_dry_run_measures_every_arm_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = [f"experiment={name}", "seeds=[1,2]", *ARGUMENTS[name]]
    assert main(["experiment", *chosen, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = plan(name, "seeds=[1,2]")
    rows = [line.split() for line in lines if line.startswith("analytic_lqr ")]
    assert [tuple(row[:3]) for row in rows] == [
        (run.cell.task, run.cell.arm, str(run.seed)) for run in found.runs
    ]
    assert {row[-1] for row in rows} == {"new"}
    assert f"{len(rows)} runs, 0 trained already; about" in "\n".join(lines)
    assert "warning" not in "\n".join(lines)
    matched = [line for line in lines if line.startswith("analytic_lqr: an epoch of ")]
    assert len(matched) == (name == "compute_matched")
    assert "two epochs measured now: analytic_lqr" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_cost_is_that_of_the_configuration() -> None:
    found = plan("flow_vs_mlp", "general.epochs=100", "alg.warmup_env_steps=1000", "alg.warmup_updates=10")
    mlp, _, flow = found.cells
    # 1000 steps of 4 environments are 250 rounds; 100 epochs of 5 steps follow.
    assert mlp.steps == flow.steps == 4 * (250 + 100 * 5)
    assert flow.flops > mlp.flops > 100 * mlp.epoch_flops
    assert mlp.parameters == mlp.parity.totals[0]


def test_the_matched_arm_costs_as_much_as_the_other() -> None:
    found = plan("compute_matched")
    mlp, matched, flow = found.cells
    wanted = match_compute(mlp.config, flow.config, flow.spec.obs_dim, flow.spec.act_dim)
    assert (
        matched.config.alg.model_learning.wm_iterations
        == wanted.wm_iterations
        > mlp.config.alg.model_learning.wm_iterations
    )
    assert matched.config.alg.warmup_updates == wanted.warmup_updates > mlp.config.alg.warmup_updates
    assert abs(matched.flops / flow.flops - 1) < 0.02
    assert matched.epoch_flops == wanted.matched
    assert matched.matched == wanted
    assert mlp.matched is flow.matched is None
    (line,) = [
        line for line in plan_in_words(found, {}, 1, lambda _: False).splitlines() if "an epoch of" in line
    ]
    left = matched.epoch_flops / flow.epoch_flops - 1
    assert line == f"analytic_lqr: an epoch of mlp_compute costs {left:+.2%} against flow"
    assert abs(matched.epoch_flops / flow.epoch_flops - 1) < abs(mlp.epoch_flops / flow.epoch_flops - 1)


def test_tasks_have_overrides_of_their_own() -> None:
    tasks = "tasks=[analytic general.epochs=7, env=gym env.id=Pendulum-v1, dflex_cartpole]"
    found = make_plan(load_experiment(["experiment=flow_vs_mlp", tasks, "seeds=[5]", "alg.gamma=0.9"]))
    cells = {cell.task: cell for cell in found.cells if cell.arm == "flow"}
    assert list(cells) == ["analytic_lqr", "gym_Pendulum-v1", "dflex_cartpole"]
    assert [cell.config.epochs for cell in cells.values()] == [7, 4750, 4750]
    assert {cell.config.alg.objective.gamma for cell in cells.values()} == {0.9}
    # One thread per run, in the simulator as well.
    cartpole = cells["dflex_cartpole"].config
    assert cartpole.env.num_threads == cartpole.general.threads == 1


@pytest.mark.parametrize(("given", "epochs"), [([], [7, 9]), (["general.epochs=11"], [11, 11])])
def test_a_task_overrides_the_file_and_the_command_line_both(given: list[str], epochs: list[int]) -> None:
    file = [
        "experiment=flow_vs_mlp",
        "overrides=[alg=pwm_small,general.epochs=9,general.eval_every=4]",
        "tasks=[analytic general.epochs=7 general.eval_every=3, dflex_cartpole]",
        "seeds=[5]",
    ]
    cells = make_plan(load_experiment([*file, *given])).cells
    found = [cell.config.general for cell in cells if cell.arm == "flow"]
    assert [of.epochs for of in found] == epochs
    assert [of.eval_every for of in found] == [3, 4]


def test_the_command_line_changes_an_arm_or_leaves_it_out() -> None:
    heun = "arms.flow=[dynamics=flow,alg.flow_integrator=heun]"
    found = plan("flow_vs_mlp", heun, "arms.residual=null", "name=mine", "general.logdir=elsewhere")
    assert [cell.arm for cell in found.cells] == ["mlp", "flow"]
    assert found.cells[1].config.chosen["dynamics"].integrator == "heun"
    assert found.folder == Path("elsewhere/experiments/mine")


def test_an_arm_may_differ_from_what_is_set_for_all() -> None:
    wide = "arms.flow=[dynamics=flow,'alg.dynamics.units=[17,17]']"
    cells = plan("flow_vs_mlp", "alg.dynamics.units=[16,16]", wide).cells
    assert [cell.config.chosen["dynamics"].units for cell in cells] == [[16, 16], [16, 16], [17, 17]]


def test_threads_and_other_presets_go_to_every_run() -> None:
    found = plan("flow_vs_mlp", "alg=pwm_5M", "general.threads=2")
    assert {cell.config.preset for cell in found.cells} == {"pwm_5M"}
    assert {cell.config.general.threads for cell in found.cells} == {2} == {found.threads}


def test_unequal_arms_are_refused_with_the_width_that_mends_them() -> None:
    unfair = 'arms.flow=[dynamics=flow,"alg.dynamics.units=[64,64]"]'
    message = refusal("experiment=flow_vs_mlp", "env=analytic", unfair)
    assert "flow on analytic_lqr" in message
    assert "FAIL" in message
    assert "residual on" not in message
    fair = message.splitlines()[-1].removeprefix("add '").removesuffix("'")
    assert fair.startswith("arms.flow=[dynamics=flow,")
    require_parity(plan("flow_vs_mlp", fair))
    require_parity(plan("flow_vs_mlp", unfair, "parity=false"))


# Overrides -> what the message must name.
MISTAKES = {
    "unknown experiment": (["experiment=flow_vs_mpl"], ["'flow_vs_mpl'", "flow_vs_mlp", "velocity_head"]),
    "no experiment": ([], ["no experiment is named", "flow_vs_mlp"]),
    "unknown key": (["experiment=flow_vs_mlp", "sedes=[1]"], ["unknown key sedes", "seeds", "thresholds"]),
    "unknown key of a run": (["experiment=flow_vs_mlp", "alg.gama=1"], ["arm mlp", "alg.gama", "alg.gamma"]),
    "key of one arm only": (["experiment=flow_vs_mlp", "alg.flow_substeps=2"], ["arm mlp", "substeps"]),
    "what every arm sets": (
        ["experiment=flow_vs_mlp", "dynamics=flow"],
        ["dynamics=flow", "every arm sets that itself", "arms.mlp=[dynamics=flow]"],
    ),
    "what every arm sets by another name": (
        ["experiment=integrator_sweep", "alg.dynamics.substeps=2"],
        ["alg.dynamics.substeps=2", "every arm sets that itself"],
    ),
    "a seed for all": (["experiment=flow_vs_mlp", "general.seed=1"], ["general.seed=1", "seeds=[...]"]),
    "a name for all": (["experiment=flow_vs_mlp", "general.name=x"], ["general.name=x", "name=..."]),
    "a seed of a task": (
        ["experiment=flow_vs_mlp", "tasks=[gym seed=1]"],
        ["tasks: seed=1", "seeds=[...]"],
    ),
    "a name of an arm": (
        ["experiment=flow_vs_mlp", "arms.flow=[dynamics=flow,general.name=x]"],
        ["arms: general.name=x", "name=..."],
    ),
    "a seed among the overrides": (
        ["experiment=flow_vs_mlp", "overrides=[alg=pwm_small_h16,general.seed=1]"],
        ["overrides: general.seed=1", "seeds=[...]"],
    ),
    "no override": (["experiment=flow_vs_mlp", "overrides=[alg]"], ["overrides: 'alg' is not an override"]),
    "no list": (["experiment=flow_vs_mlp", "seeds=[1"], ["seeds=[1", "write [1]"]),
    "no seeds": (["experiment=flow_vs_mlp", "seeds=[]"], ["seeds=[]", "at least one"]),
    "no number": (["experiment=flow_vs_mlp", "seeds=[one]"], ["seeds", "'one'", "Integer"]),
    "negative seed": (["experiment=flow_vs_mlp", "seeds=[-1]"], ["seeds=[-1]", "negative"]),
    "a seed twice": (["experiment=flow_vs_mlp", "seeds=[1,1]"], ["seeds=[1, 1]", "twice"]),
    "two ways to name tasks": (["experiment=flow_vs_mlp", "tasks=[gym]"], ["env=...", "tasks=[...]"]),
    "a task without a name": (["experiment=flow_vs_mlp", "tasks=['']"], ["tasks=['']", "env"]),
    "one arm": (
        ["experiment=flow_vs_mlp", "arms.residual=null", "arms.flow=null"],
        ["arms: mlp", "at least two"],
    ),
    "unknown baseline": (["experiment=flow_vs_mlp", "baseline=x"], ["baseline='x'", "mlp, residual, flow"]),
    "matched to nothing": (["experiment=compute_matched", "arms.flow=null"], ["'flow'", "mlp, mlp_compute"]),
    "not declared": (
        ["experiment=flow_vs_mlp", "arms.flow=[dynamics=flow,alg.gamma=0.9]"],
        ["flow differs from mlp", "alg.gamma: 0.995 -> 0.9", "declared"],
    ),
    "a list that is not closed": (
        ["experiment=flow_vs_mlp", "arms.flow=[dynamics=flow, alg.dynamics.units=[8,8]"],
        ["arms.flow=[dynamics=flow, alg.dynamics.units=[8,8]", "']' is missing"],
    ),
    "a task twice in one entry": (
        ["experiment=flow_vs_mlp", "tasks=[gym env.id=A env.id=B]"],
        ["tasks: env.id=A and env.id=B contradict each other"],
    ),
    "an arm that contradicts itself": (
        ["experiment=flow_vs_mlp", "arms.flow=[dynamics=flow,alg.use_flow_dynamics=false]"],
        ["arms: dynamics=flow and alg.use_flow_dynamics=false contradict each other"],
    ),
    "several tasks without brackets": (
        ["experiment=flow_vs_mlp", "env=dflex_hopper,dflex_ant"],
        ["env=dflex_hopper,dflex_ant", "'tasks=[dflex_ant, dflex_hopper]'"],
    ),
    "a threshold of no task": (
        ["experiment=flow_vs_mlp", "thresholds={dflex_hoper: 3}"],
        ["'dflex_hoper'", "analytic_lqr, dflex_hopper, gym_Pendulum-v1"],
    ),
    "a device that is not there": (
        ["experiment=flow_vs_mlp", "arms.flow=[dynamics=flow,general.device=cuda:99]"],
        ["arm flow, task analytic", "general.device='cuda:99'"],
    ),
    "a device of one arm": (
        ["experiment=flow_vs_mlp", "arms.flow=[dynamics=flow,general.device=meta]"],
        ["arm flow", "general.device=meta (meta)", "mlp runs on cpu", "manifest.device"],
    ),
    "a name that is no folder": (["experiment=flow_vs_mlp", "name=a/b"], ["'a/b'", "letters"]),
}


def test_groups_and_aliases_can_be_declared_as_in_the_report() -> None:
    for declared in ("dynamics", "alg.dynamics"):
        plan("flow_vs_mlp", f"declared=[{declared}]")
    message = refusal("experiment=flow_vs_mlp", "env=analytic", "declared=[actor]")
    assert "alg.dynamics.name: mlp -> residual" in message
    meta = "arms.flow=[dynamics=flow,general.device=meta]"
    plan("flow_vs_mlp", meta, "declared=[dynamics,manifest.device]")


@pytest.mark.parametrize(
    "override",
    [
        "arms.flow=[dynamics=flow, alg.dynamics.units=[17,17]]",
        'arms.flow=[dynamics=flow, "alg.dynamics.units=[17,17]"]',
        "arms.flow=['dynamics=flow','alg.dynamics.units=[17,17]']",
        "tasks=[analytic, gym env.id=Pendulum-v1 alg.dynamics.units=[17,17]]",
        'tasks=[analytic, gym env.id=Pendulum-v1 "alg.dynamics.units=[17,17]"]',
        "tasks=[analytic, 'gym env.id=Pendulum-v1 alg.dynamics.units=[17,17]']",
        """tasks=['analytic','gym env.id="Pendulum-v1" "alg.dynamics.units=[17, 17]"']""",
    ],
)
def test_lists_in_lists_may_be_quoted(override: str) -> None:
    cells = make_plan(load_experiment(["experiment=flow_vs_mlp", override])).cells
    assert cells[-1].config.chosen["dynamics"].units == [17, 17]
    assert cells[-1].config.chosen["dynamics"].name == "flow"


def test_overrides_of_a_task_hold_spaces_in_quotes() -> None:
    kwargs = """tasks=[gym env.id=Pendulum-v1 env.kwargs.g="9 81", 'analytic general.epochs=7']"""
    found = load_experiment(["experiment=flow_vs_mlp", kwargs])
    gym, analytic = (found.run_overrides(task, "mlp") for task in found.tasks)
    assert compose_config(last_of_each(gym)).env.kwargs == {"g": "9 81"}
    assert analytic[0] == "env=analytic"
    assert "general.epochs=7" in analytic


# Mistakes in what names the tasks.
NAMES_TASKS = (
    "a task without a name",
    "a task twice in one entry",
    "several tasks without brackets",
    "a seed of a task",
)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    overrides, expected = MISTAKES[name]
    task = [] if name in NAMES_TASKS else ["env=analytic"]
    message = refusal(*task, *overrides)
    assert [part for part in expected if part not in message] == [], message


def test_the_same_task_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="analytic_lqr is there twice"):
        make_plan(load_experiment(["experiment=flow_vs_mlp", "tasks=[analytic, analytic env.state_dim=6]"]))


def test_command_prints_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "experiment=x"]) == 2
    assert capsys.readouterr().err.startswith("pwm: unknown experiment 'x'; write experiment=NAME")
    for wrong in (["--jobs", "0"], ["--episodes", "0"]):
        assert main(["experiment", "experiment=flow_vs_mlp", "env=analytic", *wrong]) == 2
        assert "must be at least 1" in capsys.readouterr().err


def test_runs_without_an_environment_are_no_arms() -> None:
    assert "no env" in refusal("experiment=flow_vs_mlp", "env=analytic", "overrides=[alg=pwm_multitask]")


def test_shared_models_are_planned_before_the_runs_that_begin_from_them(tmp_path: Path) -> None:
    pytest.importorskip("dm_control", reason="needs the extra 'dmc'")
    names = ("cartpole-swingup", "cheetah-run", "cup-catch", "reacher-easy", "walker-walk", "finger-spin")
    tasks = [MT30.numbers([name])[0] for name in names]
    write_store(tmp_path / "data", [block(int(task), 2, 9) for task in tasks])
    data = f"data={tmp_path / 'data'}"
    found = make_plan(load_experiment([f"experiment={MULTITASK}", data, "general.device=cpu"]))
    require_parity(found)
    assert len(found.runs) == 6 * 3 * 3
    assert len(found.every_run) == len(found.runs) + 3 * 3
    for run in found.every_run:
        if run.start is None:
            assert (run.cell.task, run.cell.progress, run.cell.steps) == ("mt30", "updates", 60 * 100)
            assert run.config.alg.task_names() == list(names)
            assert run.folder.parts[-2:] == (f"{run.cell.arm}_model", f"seed{run.seed}")
            continue
        assert found.every_run.index(run.start) < found.every_run.index(run)
        assert (run.start.cell.arm, run.start.seed) == (run.cell.arm, run.seed)
        assert run.config.general.checkpoint == str(run.start.folder)
        assert run.config.chosen["dynamics"].units == run.start.config.chosen["dynamics"].units
        assert (run.cell.progress, run.cell.steps) == ("updates", 200 * 8)
        assert compose_config(run.overrides).to_dict() == run.config.to_dict()
    # A flow evaluates its network as often as an MLP here, and sees the time besides.
    flow, mlp = (next(c for c in found.cells if (c.arm, c.task) == (arm, "mt30")) for arm in ("flow", "mlp"))
    assert flow.flops > mlp.flops > 0
    assert {run.cell.arm for run in found.part(["dmc_cup-catch/flow"])} == {"flow"}
    assert [run.cell.task for run in found.part(["dmc_cup-catch/flow/42"])] == ["mt30", "dmc_cup-catch"]
    unequal = "arms.flow=[alg=pwm_multitask_flow,alg.wm_batch_size=64]"
    message = refusal(f"experiment={MULTITASK}", data, unequal)
    assert "flow differs from mlp in what is not declared" in message
    assert "alg.wm_batch_size: 128 -> 64" in message
    wide = "arms.flow=[alg=pwm_multitask_flow,'alg.dynamics.units=[300,300]']"
    message = refusal(f"experiment={MULTITASK}", data, wide)
    assert "flow on mt30" in message
    fair = message.splitlines()[-1].removeprefix("add '").removesuffix("'")
    require_parity(make_plan(load_experiment([f"experiment={MULTITASK}", data, fair])))
