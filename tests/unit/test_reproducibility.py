"""Seeding: the same seed gives the same streams, and determinism is switched on and off completely."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.end_to_end.tiny import HOPPER, overrides

from pwm import set_seed
from pwm.checkpoints.policies import load_policy, save_policy
from pwm.configuration.building import build_agent
from pwm.configuration.config import compose_config
from pwm.envs.base import EnvSpec
from pwm.errors import ConfigError
from pwm.runs.provenance import git_commit, names_code
from pwm.runs.run import train
from pwm.training.evaluation import EVALUATION_SEED
from pwm.training.seeding import CUBLAS_VARIABLE, STREAMS, stream_seed
from pwm.training.trainers.online.trainer import OnlineTrainer


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without a cuBLAS setting; put that setting and PyTorch's back afterwards."""
    # Set before it is deleted, so that the variable is removed again if there was none.
    monkeypatch.setenv(CUBLAS_VARIABLE, "")
    monkeypatch.delenv(CUBLAS_VARIABLE)
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def draws() -> list[object]:
    """A draw from every global stream."""
    numbers = np.random.standard_normal(3)  # noqa: NPY002  (the global stream is what is tested)
    return [random.random(), numbers.tolist(), torch.randn(3).tolist()]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 - 1])
@pytest.mark.parametrize("deterministic", [False, True])
def test_seed_decides_every_global_stream(seed: int, deterministic: bool) -> None:
    set_seed(seed, deterministic)
    first, later = draws(), draws()
    set_seed(seed, deterministic)
    assert draws() == first
    assert all(a != b for a, b in zip(first, later, strict=True))


def test_neighbouring_seeds_differ_in_every_stream() -> None:
    set_seed(7)
    first = draws()
    set_seed(8)
    assert all(a != b for a, b in zip(first, draws(), strict=True))


def test_deterministic_refuses_kernels_that_vary() -> None:
    target, index = torch.zeros(4), torch.tensor([0, 0])
    set_seed(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="deterministic"):
        target.put_(index, torch.ones(2))
    set_seed(0, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    target.put_(index, torch.ones(2))


def test_deterministic_prepares_cublas() -> None:
    set_seed(0)
    assert CUBLAS_VARIABLE not in os.environ
    set_seed(0, deterministic=True)
    assert os.environ[CUBLAS_VARIABLE] == ":4096:8"


def test_a_workspace_that_repeats_results_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_VARIABLE, ":16:8")
    set_seed(0, deterministic=True)
    assert os.environ[CUBLAS_VARIABLE] == ":16:8"


@pytest.mark.parametrize("workspace", [":0:0", ":4096:2:16:8", ""])
def test_a_workspace_that_varies_is_refused(workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_VARIABLE, workspace)
    set_seed(0)
    before = draws()
    with pytest.raises(ConfigError, match=f"{CUBLAS_VARIABLE}={workspace!r} .*:4096:8, :16:8"):
        set_seed(0, deterministic=True)
    # Nothing was changed by the refused call.
    assert not torch.are_deterministic_algorithms_enabled()
    set_seed(0)
    assert draws() == before


def test_equal_names_stand_for_equal_code(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert git_commit(tmp_path) is None
    (tmp_path / "below").mkdir()
    code = tmp_path / "code.py"
    code.write_bytes(b"a\n\xff\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "notes").write_text("")
    clean = git_commit(tmp_path)
    assert len(clean) == 40

    def changed(content: bytes) -> str:
        code.write_bytes(content)
        return git_commit(tmp_path)

    names = [changed(b"b\n\xff\n"), changed(b"a\n\xfe\n"), changed(b"b\n\xff\n")]
    assert names[0] == names[2] != names[1]
    commit, _, change = names[0].partition("-dirty.")
    assert (commit, len(change)) == (clean, 8)
    git("add", "code.py")
    assert git_commit(tmp_path) == names[0]
    # What changes beside the folder is not what runs.
    assert git_commit(tmp_path / "below") == clean
    assert changed(b"a\n\xff\n") == clean
    assert all(map(names_code, [clean, *names]))
    assert not names_code(f"{clean}-dirty")


# --- streams of a run -----------------------------------------------------------------------------


def test_streams_of_all_seeds_are_different() -> None:
    seeds = [0, 1, 2, 42, EVALUATION_SEED, 2**32, 2**64 - 1]
    found = [stream_seed(seed, stream) for seed in seeds for stream in STREAMS]
    assert len({*found, *seeds}) == len(found) + len(seeds)
    assert all(0 <= value < 2**63 for value in found)
    assert found == [stream_seed(seed, stream) for seed in seeds for stream in STREAMS]


def test_agents_and_policies_leave_global_generators_alone(tmp_path: Path) -> None:
    config = compose_config(["alg=pwm_small_h16", "general.deterministic=true", "general.seed=3"])
    spec, cpu = EnvSpec("task", 4, 2, 10, 0.1), torch.device("cpu")
    set_seed(5)
    expected = draws()
    set_seed(5)
    agent = build_agent(config, spec, cpu)
    save_policy(tmp_path / "policy.pt", agent, config, spec, {})
    loaded, *_ = load_policy(tmp_path / "policy.pt", cpu)
    assert draws() == expected
    assert not torch.are_deterministic_algorithms_enabled()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, agent.state_dict()[name]), name


def test_initial_weights_depend_on_the_seed_alone() -> None:
    spec, cpu = EnvSpec("task", 4, 2, 10, 0.1), torch.device("cpu")

    def weights(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        agent = build_agent(compose_config(["alg=pwm_small_h16", f"general.seed={seed}"]), spec, cpu)
        return torch.cat([p.detach().flatten() for p in agent.state_dict().values()])

    assert torch.equal(weights(1, 1), weights(1, 2))
    assert not torch.equal(weights(1, 1), weights(2, 1))


def test_resets_and_actions_come_from_different_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's generator and the agent's never stand where the other one was at the start."""
    built: list[tuple[torch.Tensor, torch.Tensor]] = []
    init = OnlineTrainer.__init__

    def spying(trainer: OnlineTrainer, options: object, env: object, agent: object, *rest: object) -> None:
        built.append((env.state_dict()["generator"], agent.generator.get_state()))
        init(trainer, options, env, agent, *rest)

    monkeypatch.setattr(OnlineTrainer, "__init__", spying)
    train(compose_config(overrides(tmp_path, *HOPPER, "general.epochs=1")))
    ((env_state, agent_state),) = built
    # The seed of a CPU generator is the first number of its state.
    assert not torch.equal(env_state[:8], agent_state[:8])
