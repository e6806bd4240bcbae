"""Actor, critics and actor loss of the references, compared number by number."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from tests.numerics.golden import Golden, load_actor, load_critic, set_integrator
from torch import Tensor

from pwm.algorithm.losses import actor_loss, critic_loss, imagine
from pwm.algorithm.returns import td_lambda
from pwm.models.actors.base import Actor, Decision
from pwm.models.critic import CriticEnsemble
from pwm.models.normalization import RunningMeanStd
from pwm.models.world_model import WorldModel


class DiscountedCritic:
    """Defect of the references: the bootstrap value is discounted once more, by gamma^(H+1)."""

    def __init__(self, critic: CriticEnsemble, gamma: float) -> None:
        self.critic, self.gamma = critic, gamma

    def minimum(self, z: Tensor) -> Tensor:
        return self.gamma * self.critic.minimum(z)


def test_actor_and_critics() -> None:
    golden = Golden("pwm_actor_critic")
    config = golden.config
    actor, parameters = load_actor(golden.below("param/actor/"), config)
    critic, critic_parameters = load_critic(golden.below("param/critic_stacked/"), config)
    z, noise = golden["in/z"], golden["in/noise"]
    # The reference clamps before each forward pass, we after each update.
    actor.project()
    mean, std = actor.decide(z).location, actor.log_std.exp()
    sample = mean + std * noise
    action = actor.act(z, noise)
    out = {
        "out/mean": mean,
        "out/logstd_clamped": actor.log_std.clone(),
        "out/std": std,
        "out/sample": sample,
        "out/action": action,
        "out/mean_action": actor.act(z),
        "out/log_prob": torch.distributions.Normal(mean, std).log_prob(sample),
        "out/values": critic(z).unsqueeze(-1),
        "out/value_min": critic.minimum(z).unsqueeze(-1),
    }
    (golden["in/action_cotangent"] * action).sum().backward()
    out |= {f"grad/actor/{key}": parameter.grad for key, parameter in parameters.items()}
    critic.zero_grad()
    loss = critic_loss(critic, golden["in/critic_z"], golden["in/critic_target"])
    loss.backward()
    out["out/critic_loss"] = loss
    out |= {f"grad/critic_stacked/{key}": p.grad for key, p in critic_parameters.items()}
    golden.check(out)


def test_stacked_critics_are_the_single_ones() -> None:
    golden = Golden("pwm_actor_critic")
    stacked = golden.below("param/critic_stacked/")
    names = [f"critic.{i}.{part}" for i in (0, 2, 3, 5, 6) for part in ("weight", "bias")]
    for k, name in enumerate(names):
        members = [golden[f"param/critic.{m}/{name}"] for m in range(golden.config["num_critics"])]
        assert torch.equal(torch.stack(members), stacked[f"params.{k}"])


class DetachedInput(Actor):
    """A policy behind which no gradient reaches the latents: an option of the references."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor

    def decide(self, z: Tensor, noise: Tensor | None = None) -> Decision:
        return self.actor.decide(z.detach(), noise)

    def mean_std(self) -> Tensor:
        return self.actor.mean_std()


def actor_losses(golden: Golden, model: WorldModel, case: str, noise_name: str) -> dict[str, Tensor]:
    """Everything recorded for one integrator (``case`` ends with a slash or is empty) and one noise."""
    config = golden.config
    horizon, gamma = config["horizon"], config["gamma"]
    critic, _ = load_critic(golden.below("param/critic_stacked/"), config)
    task = golden.tensors.get("in/task")
    noise = golden["in/noise"] if noise_name == "sampled" else torch.zeros_like(golden["in/noise"])
    start = f"{noise_name}/{case}"
    out: dict[str, Tensor] = {}
    for detach in (True, False):
        for scaling in ("by_horizon", "ret_rms"):
            actor, parameters = load_actor(golden.below("param/actor/"), config)
            actor.project()
            with torch.no_grad():
                z = model.encode(golden["in/obs0"], task)
            policy = DetachedInput(actor) if detach else actor
            rollout = imagine(model, policy, z, noise, horizon, task)
            per_entry = actor_loss(rollout, DiscountedCritic(critic, gamma), gamma).per_entry
            statistics = RunningMeanStd()
            statistics.update(per_entry.detach())
            by_horizon = scaling == "by_horizon"
            loss = per_entry.mean() / horizon if by_horizon else (per_entry / statistics.std).mean()
            grads = torch.autograd.grad(loss, [parameters[k] for k in config["actor_param_order"]])
            name = f"{start}{'detach' if detach else 'nodetach'}/{scaling}"
            out[f"out/{name}/actor_loss"] = loss
            out[f"grad/{name}/flat"] = torch.cat([grad.flatten() for grad in grads])
    next_values = actor_loss(rollout, critic, gamma).next_values
    rewards = rollout.rewards.detach()
    # Defect of the references: without a simulator every step counts as an end, so lambda does nothing.
    all_ends = torch.ones_like(rewards, dtype=torch.bool)
    out |= {
        f"out/{start}loss_per_entry": per_entry,
        f"out/{start}actions": rollout.actions,
        f"out/{start}obs_buf": rollout.latents,
        f"out/{start}rew_buf": rewards,
        f"out/{start}next_values": next_values,
        f"out/{start}done_mask": all_ends.float(),
        f"out/{start}target_td_lambda": td_lambda(rewards, next_values, all_ends, gamma, config["lam"]),
        f"out/{start}target_one_step": td_lambda(rewards, next_values, None, gamma, 0.0),
        f"out/{start}ret_rms_mean": statistics.mean,
        f"out/{start}ret_rms_var": statistics.var,
        f"out/{start}ret_rms_count": statistics.count,
    }
    return out


def cases(golden: Golden, model: WorldModel) -> Iterable[str]:
    """Set the integrators of the file one after the other; a single empty case for other dynamics."""
    if "cases" not in golden.config:
        yield ""
    for name, setting in golden.config.get("cases", {}).items():
        set_integrator(model, setting["flow_integrator"], setting["flow_substeps"])
        yield f"{name}/"


@pytest.mark.parametrize(
    ("name", "source"),
    [("pwm_actor_loss", "pwm"), ("pwm_actor_loss_multitask", "pwm"), ("flow_actor_loss", "flow-mbpo")],
)
def test_actor_loss(name: str, source: str) -> None:
    golden = Golden(name)
    model = golden.world_model(source, "param/wm/")
    if golden.config["num_bins"]:
        # Defect of the references: the actor's imagined reward is the expected bin, without symexp.
        model.reward_head.decode = model.reward_head.expected_bin
    out: dict[str, Tensor] = {}
    for case in cases(golden, model):
        for noise_name in ("sampled", "zero"):
            out |= actor_losses(golden, model, case, noise_name)
    golden.check(out)
