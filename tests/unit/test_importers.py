"""Checkpoints of other projects in all the forms they are saved in: converted whole, or refused by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.foreign_checkpoints import (
    RunningMeanStd,
    outputs,
    statistics,
    unfolded,
    world_model,
)
from torch import Tensor

from pwm.checkpoints import world_model_file
from pwm.errors import CheckpointError, PwmError
from pwm.interop.importers import convert, load_world_model

ROOT = Path(__file__).resolve().parents[2]
MAKER = ROOT.parent / "shared" / "cases" / "make_checkpoints.py"
OBS, ACT = 11, 3


def inputs(obs: int = OBS, act: int = ACT) -> tuple[Tensor, Tensor]:
    """Observations [6, obs] and actions [6, act]."""
    generator = torch.Generator().manual_seed(9)
    return torch.randn(6, obs, generator=generator), torch.rand(6, act, generator=generator) * 2 - 1


@torch.no_grad()
def assert_computes(model: Any, expected: tuple[Tensor, Tensor, Tensor], obs: Tensor, act: Tensor) -> None:
    """``model`` gives the ``expected`` latent, next latent and raw reward."""
    z = model.encode(obs)
    found = (z, model.next(z, act), model.reward(z, act))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def inner(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every network compiled by itself, and one layer of each wrapped once more."""
    return {
        name.replace(".", "._orig_mod.", 1).replace(".0.", ".0.module."): value
        for name, value in state.items()
    }


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda m: m,
    "compiled": lambda m: {f"_orig_mod.{k}": v for k, v in m.items()},
    "distributed": lambda m: {f"module.{k}": v for k, v in m.items()},
    "both": lambda m: {f"module._orig_mod.{k}": v for k, v in m.items()},
    "both, in the other order": lambda m: {f"_orig_mod.module.{k}": v for k, v in m.items()},
    "sharded": lambda m: {f"_fsdp_wrapped_module.{k}": v for k, v in m.items()},
    "inner": inner,
    "model": lambda m: {"model": m, "metadata": {"step": 3}},
    "state_dict": lambda m: {"state_dict": m, "epoch": 7, "best": 1.5},
    "world_model": lambda m: {"world_model": inner(m), "step": torch.tensor(4)},
    "agent": lambda m: {"agent": {"world_model": m, "actor": {"logstd": torch.zeros(3)}}, "args": None},
    "trainer": lambda m: {"state_dict": {f"agent.wm.{k}": v for k, v in m.items()}, "hparams": {"lr": 0.1}},
    "list": lambda m: {"agents": [{"world_model": m}]},
    "in between": lambda m: {**m, "epoch": 3, "step": torch.tensor(5), "config": {"lr": 1e-3}, "note": "x"},
    "parameters": lambda m: {k: torch.nn.Parameter(v, requires_grad=False) for k, v in m.items()},
    "arrays": lambda m: {k: v.numpy() for k, v in m.items()},
    "double": lambda m: {k: v.double() for k, v in m.items()},
    "the same twice": lambda m: {**m, **{f"module.{k}": v for k, v in m.items()}},
    "objects beside it": lambda m: {"model": m, "config": RunningMeanStd(1, 2, 3), "score": np.float64(2)},
}


@pytest.mark.parametrize("source", ["pwm", "flow-mbpo", "tdmpc2", "newt"])
@pytest.mark.parametrize("name", WRAPPED)
def test_world_models_are_found_wherever_they_are(name: str, source: str, tmp_path: Path) -> None:
    state = world_model(source)
    torch.save(WRAPPED[name](state), tmp_path / "src.pt")
    convert(tmp_path / "src.pt", tmp_path / "dst.pt", source)
    found = load_world_model(tmp_path / "dst.pt", "flow-pwm").state_dict()
    plain = load_world_model(state, source).state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key]) for key in plain)


@pytest.mark.parametrize("bins", [1, 21])
@pytest.mark.parametrize("source", ["pwm", "tdmpc2"])
def test_single_task_models_compute_the_same(source: str, bins: int) -> None:
    state, (obs, act) = world_model(source, bins=bins), inputs()
    assert_computes(load_world_model(state, source), outputs(state, obs, act), obs, act)


def test_tdmpc2s_oldest_names() -> None:
    state = world_model("tdmpc2", bins=21)
    old = unfolded(state)
    assert "_dynamics.0.4.weight" not in old
    assert old["_dynamics.1.weight"].ndim == 1
    (obs, act) = inputs()
    assert_computes(load_world_model({"model": old}, "tdmpc2"), outputs(state, obs, act), obs, act)
    with pytest.raises(CheckpointError, match="activations stand before the LayerNorm"):
        load_world_model({k.replace("_reward.1.", "_reward.2."): v for k, v in old.items()}, "tdmpc2")


@pytest.mark.parametrize("tasks", [0, 4])
def test_termination_heads_are_left_out_and_said_so(tasks: int, tmp_path: Path) -> None:
    sizes = {"tasks": tasks, "task_dim": 8 if tasks else 0}
    state = world_model("tdmpc2", bins=21, **sizes)
    read = 16 + sizes["task_dim"]
    head = {"_termination.0.weight": torch.zeros(16, read), "_termination.1.weight": torch.zeros(1, 16)}
    torch.save({"model": state | head}, tmp_path / "src.pt")
    imported = convert(tmp_path / "src.pt", tmp_path / "dst.pt", "tdmpc2")
    assert "from a state alone" in imported.left_out["model._termination"]
    assert {"model._pi", "model._Qs", "model._detach_Qs_params"} <= imported.left_out.keys()
    plain = load_world_model(state, "tdmpc2").state_dict()
    assert all(torch.equal(v, plain[k]) for k, v in imported.stored.build().state_dict().items())


@pytest.mark.parametrize("source", ["pwm", "tdmpc2", "newt"])
def test_one_task_of_a_multi_task_model(source: str, tmp_path: Path) -> None:
    state = world_model(source, tasks=5, task_dim=8, bins=21)
    torch.save({"model": state}, tmp_path / "src.pt")
    obs, act = inputs()
    for task in (0, 4):
        imported = convert(tmp_path / "src.pt", tmp_path / f"{task}.pt", source, task=task)
        model, sizes = imported.stored.build(), imported.stored.sizes
        masked = act.clone()
        if source != "pwm":
            # What the file says about a task's actions narrows them; PWM's files do not say it.
            assert sizes.act_dim == 1 + task % ACT
            masked[:, sizes.act_dim :] = 0
        expected = outputs(state, obs, masked, task, shorten=source != "newt")
        assert_computes(model, expected, obs, masked[:, : sizes.act_dim])
        assert (sizes.n_tasks, sizes.world_model.task_dim, sizes.padded_obs) == (0, 0, True)
        assert sizes.padded_act == (source == "pwm")
    for task in (-1, 5):
        with pytest.raises(CheckpointError, match="choose one from 0 to 4"):
            load_world_model({"model": state}, source, task=task)
    with pytest.raises(CheckpointError, match="single-task model, which has no task 0"):
        load_world_model(world_model(source), source, task=0)


def test_flow_models_keep_one_task() -> None:
    state = world_model("flow-mbpo", tasks=3, task_dim=8)
    whole, alone = (load_world_model(state, "flow-mbpo", task=task) for task in (None, 2))
    obs, act = inputs()
    with torch.no_grad():
        z = whole.encode(obs, 2)
        assert_computes(alone, (z, whole.next(z, act, 2), whole.reward(z, act, 2)), obs, act)


def test_task_embeddings_of_any_length() -> None:
    state = world_model("newt", tasks=5, task_dim=8, bins=21)
    state["_task_emb.weight"] *= 7
    model = load_world_model({"model": state, "optim": {}, "scale": {"value": torch.ones(1)}}, "newt")
    assert model.task_embedding.weight.norm(dim=-1).max() <= 1
    obs, act = inputs()
    for task in range(5):
        z, following, reward = outputs(state, obs, act, task, shorten=False)
        with torch.no_grad():
            torch.testing.assert_close(model.encode(obs, task), z, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model.next(z, act, task), following, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model.reward(z, act, task), reward, rtol=1e-5, atol=1e-5)


STATISTICS: dict[str, Callable[[RunningMeanStd], Any]] = {
    "object": lambda s: s,
    "object of arrays": lambda s: RunningMeanStd(s.mean.numpy(), s.var.numpy(), np.float64(s.count)),
    "dict": lambda s: vars(s),
    "module": lambda s: {
        "running_mean": s.mean,
        "running_var": s.var.double(),
        "count": torch.tensor([s.count]),
    },
}


@pytest.mark.parametrize("form", STATISTICS)
@pytest.mark.parametrize("nested", [True, False])
def test_statistics_are_carried_over(form: str, nested: bool, tmp_path: Path) -> None:
    state, seen, paid = world_model(), statistics(OBS), statistics(1, seed=1)
    agent: dict[str, Any] = {
        "world_model": state,
        "obs_rms": STATISTICS[form](seen),
        "rew_rms": STATISTICS[form](paid),
        "ret_rms": STATISTICS[form](statistics(1, seed=2)),
        "actor": {"mu_net.0.weight": torch.zeros(2)},
        "actor_opt": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
    }
    torch.save({"agent": agent, "epoch": 1} if nested else agent, tmp_path / "src.pt")
    imported = convert(tmp_path / "src.pt", tmp_path / "dst.pt", "pwm")
    stored = world_model_file.load(tmp_path / "dst.pt")
    model = stored.build()
    assert torch.equal(model.obs_rms.mean, seen.mean)
    assert torch.equal(model.obs_rms.var, seen.var)
    assert float(model.obs_rms.count) == pytest.approx(seen.count)
    assert stored.reward is not None
    assert torch.equal(stored.reward.mean, paid.mean)
    assert torch.equal(stored.reward.var, paid.var)
    obs, act = inputs()
    normalised = ((obs - seen.mean) / torch.sqrt(seen.var + 1e-5)).clamp(-5, 5)
    assert_computes(model, outputs(state, normalised, act), obs, act)
    prefix = "agent." if nested else ""
    assert {f"{prefix}{name}" for name in ("ret_rms", "actor", "actor_opt")} <= imported.left_out.keys()
    assert not any(name.endswith(("obs_rms", "rew_rms", "world_model")) for name in imported.left_out)


def test_statistics_of_observations_serve_every_task_of_a_model_of_several() -> None:
    state, seen = world_model("newt", tasks=3, task_dim=8, bins=21), statistics(OBS)
    model = load_world_model({"world_model": state, "obs_rms": seen.__dict__}, "newt")
    obs, _ = inputs()
    normalised = ((obs - seen.mean) / torch.sqrt(seen.var + 1e-5)).clamp(-5, 5)
    plain = load_world_model(state, "newt")
    with torch.no_grad():
        for task in range(3):
            torch.testing.assert_close(model.encode(obs, task), plain.encode(normalised, task))


def test_statistics_tell_how_much_a_flow_model_was_padded() -> None:
    state, seen = world_model("flow-mbpo", padding=4), statistics(OBS)
    model = load_world_model({"world_model": state, "obs_rms": seen.__dict__}, "flow-mbpo")
    padded = load_world_model(state, "flow-mbpo")
    obs, act = inputs()
    normalised = ((obs - seen.mean) / torch.sqrt(seen.var + 1e-5)).clamp(-5, 5)
    with torch.no_grad():
        z = padded.encode(normalised)
        assert_computes(model, (z, padded.next(z, act), padded.reward(z, act)), obs, act)


def test_rewards_with_several_statistics_are_left_out(tmp_path: Path) -> None:
    torch.save({"world_model": world_model(), "rew_rms": statistics(4)}, tmp_path / "src.pt")
    imported = convert(tmp_path / "src.pt", tmp_path / "dst.pt", "pwm")
    assert imported.stored.reward is None
    assert "4 different entries, a reward is one number" in imported.report()


BAD_STATISTICS = {
    "no count": ({"mean": torch.zeros(OBS), "var": torch.ones(OBS)}, "no usable count: it holds mean, var"),
    "another object": (RunningMeanStd("a", "b", "c"), "no usable mean"),
    "a number": (3.0, "no usable mean"),
    "another width": (statistics(3), "obs_rms has 3 entries, but observations have the width 11"),
    "negative variance": (
        RunningMeanStd(torch.zeros(OBS), -torch.ones(OBS), 1),
        "no mean, variance or count",
    ),
    "not finite": (RunningMeanStd(torch.full((OBS,), torch.nan), torch.ones(OBS), 1), "no mean, variance"),
    "two shapes": (RunningMeanStd(torch.zeros(OBS), torch.ones(2), 1), "shapes [[11], [2], [1]]"),
}


@pytest.mark.parametrize("name", BAD_STATISTICS)
def test_unusable_statistics_are_an_error(name: str, tmp_path: Path) -> None:
    given, expected = BAD_STATISTICS[name]
    torch.save({"world_model": world_model(), "obs_rms": given}, tmp_path / "src.pt")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "src.pt", tmp_path / "dst.pt", "pwm")
    assert expected in str(caught.value)
    assert not (tmp_path / "dst.pt").exists()


PWM = world_model()
REFUSED: dict[str, tuple[Any, str, str]] = {
    "actor": ({"logstd": torch.zeros(3), "mu_net.0.weight": torch.zeros(2)}, "pwm", "of a PWM actor"),
    "critics": ({f"params.{i}": torch.zeros(2) for i in range(6)}, "pwm", "of PWM's critics"),
    "optimiser": (
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict(),
        "pwm",
        "the state of an optimiser",
    ),
    "object": (
        RunningMeanStd(1, 2, 3),
        "tdmpc2",
        "object of class tests.unit.foreign_checkpoints.RunningMean",
    ),
    "network": (torch.nn.Linear(2, 2), "pwm", "object of class torch.nn.modules.linear.Linear"),
    "network in it": (
        {"world_model": torch.nn.Linear(2, 2)},
        "pwm",
        "networks pickled as objects, world_model",
    ),
    "objects": ([torch.nn.Linear(2, 2), 3], "pwm", "a list of 2 values"),
    "tensor": (torch.zeros(3, 4), "pwm", "a single tensor of shape [3, 4]"),
    "nothing": (None, "pwm", "a single value of type NoneType"),
    "empty": ({}, "pwm", "a dictionary without tensors (empty)"),
    "settings": ({"lr": 0.1}, "pwm", "a dictionary without tensors (lr)"),
    "other tensors": ({"conv1.weight": torch.zeros(2)}, "pwm", "a file of 1 tensors (conv1.weight)"),
    "own policy": ({"format": "flow-pwm/policy", "version": 1}, "pwm", "which needs no conversion"),
    "tdmpc2 as pwm": ({"model": world_model("tdmpc2")}, "pwm", "a TD-MPC2 checkpoint; use --from tdmpc2"),
    "newt as tdmpc2": ({"model": world_model("newt")}, "tdmpc2", "a Newt checkpoint; use --from newt"),
    "tdmpc2 as newt": (world_model("tdmpc2"), "newt", "a TD-MPC2 checkpoint; use --from tdmpc2"),
    "flow as pwm": (world_model("flow-mbpo"), "pwm", "a Flow-MBPO-PWM checkpoint; use --from flow-mbpo"),
    "pwm as flow": (PWM, "flow-mbpo", "a PWM checkpoint; use --from pwm"),
    "predecessor": (
        {"model": {"_encoder.1.weight": torch.zeros(2, 2), "_Q1.0.weight": torch.zeros(2, 2)}},
        "tdmpc2",
        "TD-MPC, the predecessor of TD-MPC2, which cannot be imported",
    ),
    "images": (
        {"_encoder.rgb.2.weight": torch.zeros(2, 2, 3, 3)},
        "tdmpc2",
        "TD-MPC2 checkpoint trained on images",
    ),
    "newt images": (world_model("newt", obs=128 + 384), "newt", "it was trained on images"),
    "spectral": (
        {**PWM, "_dynamics.1.linear.parametrizations.weight.original": torch.zeros(2)},
        "pwm",
        "spectral normalisation, which cannot be imported",
    ),
    "several": ({"world_model": PWM, "ema": world_model(seed=1)}, "pwm", "choose one with --key NAME"),
    "two differ": (
        {**PWM, **{f"module.{k}": v + 1 for k, v in PWM.items()}},
        "pwm",
        "twice, with and without",
    ),
    "not finite": (
        {**PWM, "_reward.0.bias": torch.full((16,), torch.inf)},
        "pwm",
        "not finite: _reward.0.bias",
    ),
    "incomplete": ({k: v for k, v in PWM.items() if "ln" not in k}, "pwm", "missing: _encoder.0.ln.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_the_file_is(name: str, tmp_path: Path) -> None:
    content, source, expected = REFUSED[name]
    src = tmp_path / "src.pt"
    torch.save(content, src)
    with pytest.raises(PwmError) as caught:
        convert(src, tmp_path / "dst.pt", source)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(f"{src}: ")
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["src.pt"]


def test_one_of_several_world_models_is_chosen_by_name(tmp_path: Path) -> None:
    second = world_model(seed=1)
    torch.save({"agent": {"world_model": PWM}, "ema": second}, tmp_path / "src.pt")
    found = load_world_model(tmp_path / "src.pt", key="ema").state_dict()
    assert all(torch.equal(found[k], v) for k, v in load_world_model(second).state_dict().items())
    found = load_world_model(tmp_path / "src.pt", key="agent.world_model").state_dict()
    assert all(torch.equal(found[k], v) for k, v in load_world_model(PWM).state_dict().items())
    with pytest.raises(CheckpointError, match=r"no world model called 'emma'; agent\.world_model is a PWM"):
        load_world_model(tmp_path / "src.pt", key="emma")


def test_files_of_earlier_releases_are_read(tmp_path: Path) -> None:
    torch.save(PWM, tmp_path / "src.pt")
    convert(tmp_path / "src.pt", tmp_path / "dst.pt", "pwm")
    content = torch.load(tmp_path / "dst.pt", weights_only=True)
    del content["reward"]
    for key in ("padded_obs", "padded_act"):
        del content["sizes"][key]
    torch.save(content, tmp_path / "old.pt")
    found, plain = (
        load_world_model(tmp_path / "old.pt", "flow-pwm").state_dict(),
        load_world_model(PWM).state_dict(),
    )
    assert all(torch.equal(found[key], plain[key]) for key in plain)


def test_containers_that_hold_themselves_have_an_end(tmp_path: Path) -> None:
    content: dict[str, Any] = {"world_model": PWM, "list": [1]}
    content["list"] += [content["list"], content]
    torch.save(content, tmp_path / "src.pt")
    imported = convert(tmp_path / "src.pt", tmp_path / "dst.pt", "pwm")
    assert imported.left_out == {"list": "no part of a world model"}


def test_a_latent_that_is_no_groups_is_refused() -> None:
    with pytest.raises(PwmError, match="width 16 cannot be cut into groups of simnorm_dim=6"):
        load_world_model(PWM, simnorm_dim=6)


def test_the_file_written_cannot_be_in_the_way(tmp_path: Path) -> None:
    torch.save(PWM, tmp_path / "src.pt")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(tmp_path / "src.pt", tmp_path / "src.pt", "pwm")
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(tmp_path / "src.pt", tmp_path / "src.pt" / "dst.pt", "pwm")


# Files of the generator of field cases: name, source, and a phrase of the report.
FIELD_CASES = {
    "pwm_agent.pt": ("pwm", "carried over: obs_rms (15 entries"),
    "pwm_agent_plain.pt": ("pwm", "carried over: world_model"),
    "compiled.pt": ("pwm", "carried over: world model"),
    "ddp.pt": ("pwm", "carried over: world model"),
    "with_metadata.pt": ("pwm", "left out: metadata"),
    "plain.pt": ("pwm", "carried over: world model"),
    "tdmpc2_episodic.pt": ("tdmpc2", "left out: model._termination"),
}


@pytest.mark.skipif(not MAKER.is_file(), reason="the generator of field cases is not beside this checkout")
def test_field_cases(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(MAKER), str(tmp_path / "cases")], check=True, cwd=tmp_path)
    files = sorted((tmp_path / "cases").iterdir())
    assert {path.name for path in files} == FIELD_CASES.keys()
    plain = load_world_model(tmp_path / "cases" / "plain.pt")
    for path in files:
        source, phrase = FIELD_CASES[path.name]
        assert phrase in convert(path, tmp_path / path.name, source).report()
        model = load_world_model(tmp_path / path.name, "flow-pwm")
        if source == "pwm":
            found = model.state_dict()
            assert all(torch.equal(found[k], v) for k, v in plain.state_dict().items())
