"""What the policy is shown while experience is collected, and from which of it imagination starts."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import compose_config
from pwm.logging.monitoring import PhaseTimer
from pwm.training.trainers.online.trainer import OnlineTrainer

CPU = torch.device("cpu")
ENVS, HORIZON, BATCH = 6, 5, 8
SIZES = [
    "alg=pwm_small_h16_flow",
    "env=analytic",
    "env.task=counting",
    # Some episodes end inside an epoch, others go on.
    "env.episode_lengths=[3,4,100,100,3,100]",
    "env.ends=[terminated,truncated]",
    f"alg.num_envs={ENVS}",
    f"alg.horizon={HORIZON}",
    f"alg.actor_batch_size={BATCH}",
    "alg.wm_batch_size=8",
    "alg.buffer_size=2000",
    "alg.warmup_env_steps=0",
    "alg.warmup_updates=0",
]


class Seen(NamedTuple):
    """One step of all environments: what the policy saw, what it could have seen, which episodes ended."""

    z: Tensor
    encoded: Tensor
    next: Tensor
    ended: Tensor


def collect(trainer: OnlineTrainer, monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Everything that the policy saw in one epoch's collection."""
    agent, shown, ended = trainer.agent, [], []
    explore, step = agent.actor_critic.explore, trainer.env.step

    def spying_explore(z: Tensor) -> Tensor:
        action = explore(z)
        model = agent.world_model
        shown.append((z.clone(), model.encode(trainer.obs), model.next(z, action)))
        return action

    def spying_step(action: Tensor):  # type: ignore[no-untyped-def]
        result = step(action)
        ended.append(result.terminated | result.truncated)
        return result

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(agent.actor_critic, "explore", spying_explore)
        patch.setattr(trainer.env, "step", spying_step)
        trainer._collect(PhaseTimer())
    return [Seen(*latents, end) for latents, end in zip(shown, ended, strict=True)]


def build(share: float, *changes: str) -> OnlineTrainer:
    chosen = dict(change.split("=", 1) for change in [*SIZES, *changes])
    config = compose_config([f"{k}={v}" for k, v in chosen.items()] + [f"alg.open_loop_share={share}"])
    env = build_env(config, ENVS, 0, CPU)
    return OnlineTrainer(config.alg, env, build_agent(config, env.spec, CPU))


def open_loop_environments(steps: list[Seen]) -> set[int]:
    """Environments that saw anything but encoded observations; all latents are checked on the way."""
    torch.testing.assert_close(steps[0].z, steps[0].encoded)
    blind = set()
    for env in range(ENVS):
        differs = [not torch.allclose(s.z[env], s.encoded[env], atol=1e-5) for s in steps]
        if any(differs):
            blind.add(env)
            for before, now in pairwise(steps):
                expected = now.encoded if before.ended[env] else before.next
                torch.testing.assert_close(now.z[env], expected[env], atol=1e-5, rtol=1e-4)
    return blind


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_policy_sees_imagined_latents_where_it_acts_open_loop(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(share)
    epochs = [open_loop_environments(collect(trainer, monkeypatch)) for _ in range(20)]
    assert {len(blind) for blind in epochs} == {round(share * ENVS)}
    if share == 0.5:
        # Over the epochs every environment takes its turn.
        assert set().union(*epochs) == set(range(ENVS))


def test_episodes_that_end_are_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = collect(build(1.0), monkeypatch)
    ended = [(t, env) for t, s in enumerate(steps[:-1]) for env in s.ended.nonzero().flatten().tolist()]
    assert ended
    for t, env in ended:
        torch.testing.assert_close(steps[t + 1].z[env], steps[t + 1].encoded[env])


def test_without_open_loop_environments_only_the_policy_draws_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = build(0.0)
    expected = torch.Generator()
    expected.set_state(trainer.agent.generator.get_state())
    collect(trainer, monkeypatch)
    for _ in range(HORIZON):
        torch.randn(ENVS, trainer.agent.actor.noise_dim, generator=expected)
    assert torch.equal(trainer.agent.generator.get_state(), expected.get_state())


@pytest.mark.parametrize("replayed", [0.0, 0.5])
def test_start_states_are_a_uniform_draw_without_replacement(
    replayed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, repeats, fresh = 20, 8, round((1 - replayed) * BATCH)
    draws = [f"alg.replay_starts={replayed}", f"alg.actor_iterations={repeats}", "alg.wm_iterations=0"]
    trainer, batches = build(0.0, "env.task=lqr", *draws), []
    monkeypatch.setattr(trainer, "improve_policy", lambda timer, z: batches.append(z) or {})
    for _ in range(3):
        # Older experience, so that most states from the replay buffer can be told from those just visited.
        trainer.run_epoch(0.0, PhaseTimer())
    drawn = torch.zeros(HORIZON * ENVS)
    for _ in range(epochs):
        batches.clear()
        trainer.run_epoch(0.0, PhaseTimer())
        visited = trainer.agent.world_model.encode(trainer.visited)
        assert len(batches) == repeats
        for z in batches:
            assert z.shape == (BATCH, trainer.options.world_model.latent_dim)
            distance, index = (z[:, None] - visited).norm(dim=-1).min(1)
            chosen = index[distance < 1e-5][:fresh]
            assert len(chosen.unique()) == fresh
            drawn[chosen] += 1
    # Every state has the same chance, whatever its time and environment: within five standard deviations.
    expected = epochs * repeats * fresh / len(drawn)
    assert (drawn - expected).abs().max() < 5 * expected**0.5
