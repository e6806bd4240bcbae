"""The page on the training rule says what the package does: its code is run beside the package's."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pwm.algorithm import losses, returns
from pwm.algorithm.agent import Agent
from pwm.configuration.config import compose_config
from pwm.data.batch import Batch
from pwm.parts import flat_values

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "algorithm.md"
OBS, ACT, H, B = 5, 2, 4, 7


def listing() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Functions of the page by name."""
    path = tmp_path_factory.mktemp("page") / "algorithm.py"
    path.write_text(listing(), encoding="utf-8")
    return runpy.run_path(str(path))


@pytest.fixture(params=["simnorm", "observations"])
def agent(request: pytest.FixtureRequest) -> Agent:
    torch.manual_seed(0)
    config = compose_config(
        ["alg=pwm_small_residual", f"alg.latents={request.param}", f"alg.horizon={H}", "alg.rew_rms=false"]
    )
    found = Agent(config.alg, config.chosen, OBS, ACT, torch.Generator().manual_seed(1))
    with torch.no_grad():
        # The last layers are zero at first, which would hide what they are multiplied with.
        for net in (found.world_model.reward_net, found.world_model.termination_net):
            net[-1].weight.normal_(std=0.1)
    found.alg = flat_values(config.alg)  # type: ignore[attr-defined]
    return found


def test_the_listing_is_as_short_as_it_claims_and_every_line_is_explained() -> None:
    assert 60 <= len([line for line in listing().splitlines() if line.strip()]) <= 100
    marks = re.findall(r"# +(\d+)$", listing(), re.MULTILINE)
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert marks == rows == [str(n) for n in range(1, len(rows) + 1)]


def test_functions_that_the_page_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path, name in re.findall(r"\(\.\./(src/[\w/.]+)\) `([\w.]+)`", text):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name.split('.')[-1]}(" in source, (path, name)


def test_the_loss_of_the_world_model(page: dict[str, Any], agent: Agent) -> None:
    g = torch.Generator().manual_seed(2)
    obs, action = torch.randn(H + 1, B, OBS, generator=g), torch.rand(H, B, ACT, generator=g) * 2 - 1
    reward, terminated = torch.randn(H, B, generator=g), torch.rand(H, B, generator=g) < 0.3
    batch = Batch(obs, action, reward, terminated, torch.ones(H, B, dtype=torch.bool))
    expected, _ = agent.model.loss(batch, agent.generator)
    found = page["world_model_loss"](agent.world_model, obs, action, reward, terminated, agent.alg)
    torch.testing.assert_close(found, expected)


def test_imagination_and_what_is_learned_in_it(page: dict[str, Any], agent: Agent) -> None:
    z = agent.world_model.encode(torch.randn(B, OBS)).detach()
    noise = torch.randn(H, B, agent.actor.noise_dim)
    rollout = losses.imagine(agent.world_model, agent.actor, z, noise, H)
    latents, rewards, survival = page["imagine"](agent.world_model, agent.actor, z, noise)
    assert rollout.survival is not None
    for found, expected in (
        (latents[:-1], rollout.latents),
        (latents[1:], rollout.next_latents),
        (rewards, rollout.rewards),
        (survival, rollout.survival),
    ):
        torch.testing.assert_close(found, expected)
    gamma, lam, critic = 0.9, 0.7, agent.actor_critic.target_critic
    expected = losses.actor_loss(rollout, critic, gamma)
    per_entry = page["actor_loss"](rewards, survival, critic(latents[-1]).amin(0), gamma)
    torch.testing.assert_close(per_entry, expected.per_entry)
    (ours,) = torch.autograd.grad(expected.per_entry.mean(), [agent.actor.net[-1].weight], retain_graph=True)
    (pages,) = torch.autograd.grad(per_entry.mean(), [agent.actor.net[-1].weight], retain_graph=True)
    torch.testing.assert_close(pages, ours, rtol=1e-4, atol=1e-6)
    values = critic(latents[1:]).amin(0)
    targets = page["td_lambda"](rewards, survival, values, gamma, lam)
    torch.testing.assert_close(targets, returns.td_lambda(rewards, values, None, gamma, lam, survival))


def test_the_epoch_runs(page: dict[str, Any], agent: Agent) -> None:
    """With doubles of what surrounds the rule, each recording that it was used."""
    used: list[str] = []
    model, learner, alg = agent.world_model, agent.actor_critic, agent.alg
    windows = (
        torch.randn(H + 1, B, OBS),
        torch.zeros(H, B, ACT),
        torch.zeros(H, B),
        torch.zeros(H, B).bool(),
    )

    def optimiser(name: str) -> SimpleNamespace:
        return SimpleNamespace(step=lambda loss: used.append(name) or loss.backward(retain_graph=True))

    def collect(_env: object, policy: Any) -> None:
        used.append("collect")
        assert policy(torch.randn(B, OBS)).shape == (B, ACT)

    def minibatches(targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(targets.numel())
        return [(part // B, part % B) for part in order.chunk(alg["critic_batches"])]

    replay = SimpleNamespace(
        act_and_store=collect,
        start_states=lambda: torch.randn(B, OBS),
        return_spread=lambda: torch.tensor(2.0),
        minibatches=minibatches,
        sample_windows=lambda: windows,
    )
    actor = SimpleNamespace(
        act=agent.actor.act, draw_noise=lambda *steps: torch.randn(*steps, B, agent.actor.noise_dim)
    )

    class SlowCritic:
        def __call__(self, z: Tensor) -> Tensor:
            return learner.target_critic(z)

        def follow(self, critic: object, rate: float) -> None:
            used.append("follow")
            assert (critic, rate) == (agent.critic, alg["target_rate"])

    optimisers = SimpleNamespace(**{name: optimiser(name) for name in ("actor", "critic", "model")})
    page["epoch"](None, replay, model, actor, agent.critic, SlowCritic(), optimisers, alg)
    counts = {name: used.count(name) for name in set(used)}
    assert counts == {
        "collect": H,
        "actor": alg["actor_iterations"],
        "critic": alg["actor_iterations"] * alg["critic_batches"],
        "follow": alg["actor_iterations"] * alg["critic_batches"],
        "model": alg["wm_iterations"],
    }
