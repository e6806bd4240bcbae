"""World models of other projects as the starting point of a run, through the command line."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.end_to_end.tiny import (
    ANALYTIC,
    interrupt_after,
    metrics,
    only_run,
    overrides,
    status,
    train,
    trained,
    weights,
)
from tests.unit.foreign_checkpoints import RunningMeanStd, statistics, world_model

from pwm.checkpoints import world_model_file
from pwm.checkpoints.policy_evaluation import policy_digest
from pwm.checkpoints.starting_point import start_from
from pwm.configuration.building import build_trainer
from pwm.configuration.config import compose_config
from pwm.launch.cli import INTERRUPTED, main

OBS, ACT = 4, 2
# Nothing but the environment's steps changes what a run started from.
FROZEN = ["alg.warmup_updates=0", "alg.warmup_env_steps=0", "alg.wm_iterations=0"]


def converted(folder: Path, content: Any, source: str = "pwm", *options: str) -> Path:
    """A file of ``pwm convert`` made from ``content``."""
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / "theirs.pt")
    ours = folder / f"ours{len(list(folder.iterdir()))}.pt"
    assert main(["convert", str(folder / "theirs.pt"), str(ours), "--from", source, *options]) == 0
    return ours


def fitting(logdir: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], *changes: str) -> list[str]:
    """Overrides that make a run start from ``checkpoint``, as the refusal without them names them."""
    start = f"general.checkpoint={checkpoint}"
    capsys.readouterr()
    assert train(logdir, *ANALYTIC, *changes, start) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"pwm: {start} does not fit this configuration (")
    assert message.count("\n") == 1
    assert not logdir.exists()
    return [*changes, *message.split("it fits with ")[1].split(), start]


def model_weights(policy: Path) -> dict[str, torch.Tensor]:
    """World-model weights of a policy file, without what the environment's observations change."""
    found = {k.removeprefix("world_model."): v for k, v in weights(policy).items() if "world_model." in k}
    return {k: v for k, v in found.items() if not k.startswith(("obs_rms", "termination_net"))}


@pytest.mark.parametrize("source", ["pwm", "flow-mbpo", "tdmpc2"])
def test_a_run_starts_from_a_converted_world_model(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bins = 21 if source == "tdmpc2" else 1
    state = world_model(source, OBS, ACT, latent=24, width=40, bins=bins)
    checkpoint = converted(tmp_path / "files", {"model": state}, source)
    options = fitting(tmp_path / "logs", checkpoint, capsys, *FROZEN)
    assert "alg.latent_dim=24" in options
    assert "alg.encoder_units=[40]" in options
    assert ("dynamics=flow" in options) == (source == "flow-mbpo")
    with pytest.warns(RuntimeWarning, match="records no scale of rewards"):
        folder = trained(tmp_path / "logs", *ANALYTIC, *options)
    stored = world_model_file.load(checkpoint).state
    found = model_weights(folder / "final_policy.pt")
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[key], stored[key]) for key in stored)
    assert len(metrics(folder)) == 4
    # The file says what the run was made of, so that the result stands by itself.
    assert "latent_dim: 24" in (folder / "config.yaml").read_text()
    assert main(["evaluate", str(folder), "--episodes", "2"]) == 0


def test_a_converted_world_model_learns_and_the_run_continues_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = {
        "world_model": world_model("pwm", OBS, ACT),
        "obs_rms": statistics(OBS),
        "rew_rms": statistics(1),
    }
    checkpoint = converted(tmp_path / "files", agent)
    options = [*ANALYTIC, *fitting(tmp_path / "logs", checkpoint, capsys)]
    options.append("general.save_interval=0")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train(tmp_path / "logs", *options) == INTERRUPTED
    stored = world_model_file.load(checkpoint).state
    checkpoint.unlink()
    assert train(tmp_path / "logs", *options) == 0
    folder = only_run(tmp_path / "logs")
    assert status(folder)["state"] == "finished"
    found = model_weights(folder / "final_policy.pt")
    assert any(not torch.equal(found[key], stored[key]) for key in found)


def test_another_model_at_the_same_place_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (trained(tmp_path / name, *ANALYTIC, f"general.seed={n}") for n, name in enumerate("ab"))
    model = tmp_path / "model.pt"
    shutil.copy(first / "final_policy.pt", model)
    start = [*ANALYTIC, f"general.checkpoint={model}"]
    folder = trained(tmp_path / "logs", *start)
    stated = json.loads((folder / "manifest.json").read_text())["start"]
    assert stated["sha256"] == policy_digest(model)
    assert stated["configuration"]["general.seed"] == 0
    shutil.copy(second / "final_policy.pt", model)
    longer = [*start, "general.epochs=4"]
    capsys.readouterr()
    assert train(tmp_path / "logs", *longer) == 2
    assert (
        f"{folder} began from another model than general.checkpoint={model} holds" in capsys.readouterr().err
    )
    # Whoever insists goes on with the model that the run has, and this is what it says.
    assert train(tmp_path / "logs", *longer, "general.resume=force") == 0
    assert json.loads((folder / "manifest.json").read_text())["start"] == stated


def agent_from(checkpoint: Path, logdir: Path, *changes: str) -> Any:
    """A fresh agent of the tiny configuration that starts from ``checkpoint``."""
    config = compose_config(overrides(logdir, *ANALYTIC, *changes))
    with contextlib.closing(build_trainer(config, torch.device("cpu"))) as trainer:
        start_from(trainer, checkpoint, config)
        return trainer.learner


FITS = ["alg.simnorm_scale=1.0"]


@pytest.mark.parametrize("rew_rms", ["true", "false"])
def test_rewards_mean_what_they_did(rew_rms: str, tmp_path: Path) -> None:
    state, paid = (
        world_model("pwm", OBS, ACT),
        RunningMeanStd(torch.tensor([3.0]), torch.tensor([4.0]), 100.0),
    )
    seen = statistics(OBS)
    checkpoint = converted(tmp_path / "files", {"world_model": state, "obs_rms": seen, "rew_rms": paid})
    agent = agent_from(checkpoint, tmp_path, *FITS, f"alg.rew_rms={rew_rms}")
    theirs = world_model_file.load(checkpoint).build()
    obs, act = torch.randn(5, OBS), torch.rand(5, ACT)
    with torch.no_grad():
        z = agent.world_model.encode(obs)
        torch.testing.assert_close(z, theirs.encode(obs))
        ours = agent.world_model.reward_head.decode(agent.world_model.reward(z, act)) * agent.reward_scale
        # There a reward was normalised as (r - mean) / std.
        expected = theirs.reward(z, act).squeeze(-1) * paid.var.sqrt() + paid.mean
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(agent.world_model.obs_rms.mean, seen.mean)
    if rew_rms == "true":
        assert float(agent.model.reward_rms.mean) == 3.0
        assert float(agent.model.reward_rms.var) == 4.0
        assert float(agent.model.reward_rms.count) == 100.0


def test_actor_critic_and_predictor_of_terminations_are_new(tmp_path: Path) -> None:
    content = {
        "world_model": world_model("pwm", OBS, ACT),
        "obs_rms": statistics(OBS),
        "rew_rms": statistics(1),
    }
    checkpoint = converted(tmp_path / "files", content)
    agent = agent_from(checkpoint, tmp_path, *FITS)
    assert agent.world_model.termination_net is not None
    *_, head = agent.world_model.termination_net.modules()
    assert float(head.bias.detach()) == -5.0


def test_multi_task_models_are_for_one_task_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Wider than the task: the rest was padding.
    state = world_model("tdmpc2", OBS + 3, ACT + 1, bins=21, tasks=4, task_dim=8)
    whole = converted(tmp_path / "files", {"model": state}, "tdmpc2")
    assert "run trains one task: convert it with --task 0 ... 3" in capsys.readouterr().out
    assert train(tmp_path / "logs", *ANALYTIC, f"general.checkpoint={whole}") == 2
    assert "of 4 tasks and does not say which; convert it again with --task" in capsys.readouterr().err
    # The action masks of this model: task i has 1 + i % 3 actions.
    alone = converted(tmp_path / "files", {"model": state}, "tdmpc2", "--task", "1")
    options = fitting(tmp_path / "logs", alone, capsys, "alg.rew_rms=false")
    with pytest.warns(
        RuntimeWarning, match=r"width \(7, 2\), analytic_lqr has \(4, 2\); the rest is taken for padding"
    ):
        folder = trained(tmp_path / "logs", *ANALYTIC, *options, *FROZEN)
    stored, found = world_model_file.load(alone).state, model_weights(folder / "final_policy.pt")
    assert torch.equal(found["encoder.0.linear.weight"], stored["encoder.0.linear.weight"][:, :OBS])
    assert torch.equal(found["dynamics.net.0.linear.weight"], stored["dynamics.net.0.linear.weight"])
    other = converted(tmp_path / "files", {"model": state}, "tdmpc2", "--task", "0")
    capsys.readouterr()
    assert train(tmp_path / "more", *ANALYTIC, *options[:-1], f"general.checkpoint={other}") == 2
    assert (
        "reads observations of width 7 and actions of width 1, the task has 4 and 2"
        in capsys.readouterr().err
    )


def test_padded_flow_models_are_cut_to_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = converted(tmp_path / "files", world_model("flow-mbpo", OBS, ACT, padding=5), "flow-mbpo")
    options = fitting(tmp_path / "logs", checkpoint, capsys, "alg.rew_rms=false", *FROZEN)
    with pytest.warns(RuntimeWarning, match="the rest is taken for padding"):
        folder = trained(tmp_path / "logs", *ANALYTIC, *options)
    stored, found = world_model_file.load(checkpoint).state, model_weights(folder / "final_policy.pt")
    for key in ("encoder.0.linear.weight", "dynamics.net.0.linear.weight", "reward_net.0.linear.weight"):
        assert torch.equal(found[key], stored[key][:, :-5])


def test_other_widths_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for obs, act in ((OBS + 1, ACT), (OBS, ACT + 1), (OBS - 1, ACT)):
        checkpoint = converted(tmp_path / f"{obs}{act}", world_model("pwm", obs, act))
        capsys.readouterr()
        start = f"general.checkpoint={checkpoint}"
        assert train(tmp_path / "logs", *ANALYTIC, *FITS, "alg.obs_rms=false", start) == 2
        message = capsys.readouterr().err
        assert f"observations of width {obs} and actions of width {act}, the task has 4 and 2" in message
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("kind", ["state dict", "agent", "html", "policy elsewhere"])
def test_files_that_are_not_converted_are_sent_to_the_converter(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.pt"
    if kind == "html":
        path.write_bytes(b"<!doctype html>")
    elif kind == "agent":
        torch.save({"world_model": world_model(), "obs_rms": statistics(11)}, path)
    else:
        torch.save(world_model() if kind == "state dict" else {"format": "other", "version": 1}, path)
    assert train(tmp_path / "logs", *ANALYTIC, f"general.checkpoint={path}") == 2
    message = capsys.readouterr().err
    assert message.startswith("pwm: ")
    assert message.count("\n") == 1
    expected = {"html": "an HTML page", "policy elsewhere": "has format 'other'"}
    assert expected.get(kind, "`pwm convert` reads world models") in message
    assert not re.search("weights_only|trust", message)


def test_a_converted_world_model_is_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = converted(tmp_path / "files", world_model("pwm", OBS, ACT))
    assert main(["evaluate", str(checkpoint)]) == 2
    assert "has format 'flow-pwm/world-model', expected 'flow-pwm/policy'" in capsys.readouterr().err
