"""Every YAML preset composes and builds, and the presets of one size differ only in their dynamics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

import pwm.configs
from pwm import components
from pwm.algorithm.agent import Agent
from pwm.configuration.config import ExperimentConfig, build_options, compose_config, diff
from pwm.configuration.predecessor_keys import ALIASES
from pwm.envs import dflex
from pwm.errors import ConfigError
from pwm.models.world_model import WorldModel, build_world_model

CONFIGS = Path(pwm.configs.__file__).parent
ALGS = sorted(path.stem for path in (CONFIGS / "alg").glob("*.yaml"))
ENVS = sorted(path.stem for path in (CONFIGS / "env").glob("*.yaml"))
# Candidate -> baseline of the same size.
TWINS = {name: name.split("_flow")[0].split("_residual")[0] for name in ALGS if "_" in name}
TWINS = {name: twin if twin in ALGS else f"{twin}_baseline" for name, twin in TWINS.items() if name != twin}
OBS_DIM, ACT_DIM = 11, 3
# Presets with more parameters than this are built without memory.
REAL_PARAMETERS = 10_000_000

# Alias -> overrides that set it, and where the value must arrive.
ALIAS_CASES = {
    "seed": (7, lambda c: c.general.seed),
    "alg.flow_integrator": ("heun", lambda c: c.chosen["dynamics"].integrator),
    "alg.flow_substeps": (4, lambda c: c.chosen["dynamics"].substeps),
    "alg.flow_tau_sampling": ("midpoint", lambda c: c.chosen["dynamics"].tau_sampling),
    "alg.flow_source": ("teacher", lambda c: c.chosen["dynamics"].flow_source),
    "alg.velocity_head": ("tangent", lambda c: c.chosen["dynamics"].velocity_head),
    "dynamics": ("residual", lambda c: c.chosen["dynamics"].name),
    "actor": ("gaussian", lambda c: c.chosen["actor"].name),
}


def model_on_meta(config: ExperimentConfig, obs_dim: int, act_dim: int) -> WorldModel:
    """The world model without storage: shapes and counts only."""
    with torch.device("meta"):
        return build_world_model(config.alg.world_model, config.chosen["dynamics"], obs_dim, act_dim)


def parameters(preset: str, obs_dim: int, act_dim: int) -> int:
    return model_on_meta(compose_config([f"alg={preset}"]), obs_dim, act_dim).total_params


def test_every_twin_has_a_baseline() -> None:
    assert len(TWINS) >= 9
    assert set(TWINS.values()) <= set(ALGS)
    assert {"pwm", "pwm_5M", "pwm_19M", "pwm_48M", "pwm_317M", "pwm_small"} <= set(TWINS.values())


@pytest.mark.parametrize("preset", ALGS)
def test_preset_composes_and_survives_a_round_trip(preset: str) -> None:
    config = compose_config([f"alg={preset}"])
    assert config.preset == preset
    again = ExperimentConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.hash() == config.hash()


@pytest.mark.parametrize("preset", ALGS)
def test_preset_builds_an_agent(preset: str) -> None:
    config = compose_config([f"alg={preset}"])
    count = model_on_meta(config, OBS_DIM, ACT_DIM).total_params
    if "actor" not in config.chosen:
        assert count > 1e5
        return
    if count <= REAL_PARAMETERS:
        agent = Agent(config.alg, config.chosen, OBS_DIM, ACT_DIM, torch.Generator())
        action = agent.act(torch.zeros(2, OBS_DIM))
        assert action.shape == (2, ACT_DIM)
        assert torch.isfinite(action).all()
    else:
        with torch.device("meta"):
            agent = Agent(config.alg, config.chosen, OBS_DIM, ACT_DIM, None, "meta")
            z = agent.world_model.encode(torch.zeros(2, OBS_DIM))
            action = agent.actor.act(z, torch.zeros(2, agent.actor.noise_dim))
            values = agent.critic(agent.world_model.next(z, action))
            assert values.shape == (config.alg.actor_critic.num_critics, 2)
        assert action.shape == (2, ACT_DIM)
    assert agent.world_model.total_params == count


@pytest.mark.parametrize("preset", ALGS)
def test_what_a_preset_says_of_components_is_an_option_of_one_of_them(preset: str) -> None:
    """What the chosen component does not have is dropped, and a misspelt key would be dropped everywhere."""
    values = yaml.safe_load((CONFIGS / "alg" / f"{preset}.yaml").read_text(encoding="utf-8"))
    for kind in ("dynamics", "actor"):
        known = {
            option.name
            for name in components.names(kind)
            for option in dataclasses.fields(components.load(kind, name).Options)
        }
        assert set(values.get(kind, ())) <= known


@pytest.mark.parametrize("dynamics", ["residual", "flow"])
def test_twins_are_what_their_dynamics_make_of_the_preset(dynamics: str) -> None:
    for preset in ("pwm_small", "pwm_small_h16"):
        twin = compose_config([f"alg={preset}_{dynamics}"])
        combined = compose_config([f"alg={preset}", f"dynamics={dynamics}"])
        assert diff(twin.identity(), combined.identity()) == [f"preset: {preset}_{dynamics} -> {preset}"]


@pytest.mark.parametrize("preset", TWINS)
def test_twins_differ_in_nothing_but_the_dynamics(preset: str) -> None:
    twin, own = (compose_config([f"alg={name}"]).identity() for name in (TWINS[preset], preset))
    changed = [line.split(":")[0] for line in diff(twin, own)]
    assert changed
    strangers = [key for key in changed if key != "preset" and not key.startswith("alg.dynamics.")]
    assert not strangers


@pytest.mark.parametrize("preset", [name for name in ALGS if "M" in name and "flow" not in name])
def test_size_in_the_name_is_about_right(preset: str) -> None:
    """TD-MPC2 counts all networks of its multi-task agent; the world model alone is smaller, not larger."""
    named = 1e6 * float(preset.split("_")[1].removesuffix("M"))
    ant = dflex.load_task("ant")
    assert 0.2 * named <= parameters(preset, ant.obs_dim, ant.act_dim) <= 1.05 * named


@pytest.mark.parametrize("name", ENVS)
def test_env_composes_and_builds(name: str) -> None:
    if name == "metaworld":
        pytest.importorskip("metaworld", reason="needs the extra 'metaworld'")
    config = compose_config([f"env={name}", "alg=pwm_small"])
    env = components.load("env", config.env_name).build(config.env, 2, "cpu", 0)
    assert env.reset(1).shape == (2, env.spec.obs_dim)
    env.close()


@pytest.mark.parametrize(
    ("name", "integrator", "substeps"),
    [
        ("pwm_48M_flow", "heun", 2),
        ("pwm_48M_flow_v0_substeps1", "heun", 1),
        ("pwm_48M_flow_v1_substeps2", "heun", 2),
        ("pwm_48M_flow_v2_substeps4", "heun", 4),
        ("pwm_48M_flow_v2_rk4", "rk4", 4),
        ("pwm_48M_flow_v3_substeps8", "heun", 8),
    ],
)
def test_documented_flow_presets_integrate_as_documented(name: str, integrator: str, substeps: int) -> None:
    dynamics = compose_config([f"alg={name}"]).chosen["dynamics"]
    assert (dynamics.name, dynamics.integrator, dynamics.substeps) == ("flow", integrator, substeps)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["alg=pwm_48M", "alg.use_flow_dynamics=true"], "flow"),
        (["alg=pwm_48M_flow", "alg.use_flow_dynamics=True"], "flow"),
        (["alg=pwm_48M_flow", "alg.use_flow_dynamics=false"], "mlp"),
        (["alg=pwm_48M_flow_v3_substeps8", "alg.use_flow_dynamics=False"], "mlp"),
        (["alg=pwm_small_residual", "alg.use_flow_dynamics=true"], "flow"),
        (["alg=pwm_48M_flow_v2_rk4", "dynamics=residual"], "residual"),
        (["alg=pwm_5M_flow", "dynamics=mlp", "alg.use_flow_dynamics=false"], "mlp"),
        (["alg=pwm_5M_flow", "alg.dynamics=mlp"], "mlp"),
    ],
)
def test_dynamics_of_a_preset_can_be_exchanged(overrides: list[str], name: str) -> None:
    config = compose_config(overrides)
    assert config.chosen["dynamics"].name == name
    width = compose_config(overrides[:1]).chosen["dynamics"].units
    assert config.chosen["dynamics"].units == width


def test_flow_keeps_what_its_preset_says_of_it() -> None:
    config = compose_config(["alg=pwm_48M_flow_v2_rk4", "alg.use_flow_dynamics=true"])
    assert (config.chosen["dynamics"].integrator, config.chosen["dynamics"].substeps) == ("rk4", 4)


@pytest.mark.parametrize("kind", ["dynamics", "actor"])
def test_every_component_has_a_yaml_that_builds_it(kind: str) -> None:
    for name in components.names(kind):
        config = compose_config(["alg=pwm_small", f"{kind}={name}"])
        assert config.chosen[kind].name == name
    assert sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml")) == components.names(kind)


@pytest.mark.parametrize("alias", ALIASES)
def test_predecessors_override_name_works(alias: str) -> None:
    value, arrived = ALIAS_CASES[alias]
    assert arrived(compose_config(["alg=pwm_small_flow", f"{alias}={value}"])) == value


@pytest.mark.parametrize("name", ["epochs", "device", "logdir", "checkpoint", "eval_runs", "seed"])
def test_predecessors_general_keys_exist(name: str) -> None:
    value = {"epochs": 3, "eval_runs": 3, "seed": 3}.get(name, "x")
    assert getattr(compose_config([f"general.{name}={value}"]).general, name) == value


def test_order_of_overrides_does_not_change_the_experiment() -> None:
    a = compose_config(["alg=pwm_small_flow", "general.seed=3", "alg.gamma=0.9"])
    b = compose_config(["alg.gamma=0.9", "general.seed=3", "alg=pwm_small_flow"])
    assert a.hash() == b.hash()


def test_predecessors_wandb_keys_exist() -> None:
    config = compose_config(
        ["general.run_wandb=true", "wandb.project=ours", "wandb.entity=team", "wandb.group=pairs"]
    )
    assert config.general.run_wandb
    assert vars(config.wandb) == {"project": "ours", "entity": "team", "group": "pairs", "mode": "online"}
    plain = compose_config([])
    assert (plain.general.run_wandb, plain.general.tensorboard, plain.wandb.project) == (
        False,
        False,
        "flow-pwm",
    )


def test_where_a_run_happens_does_not_change_the_experiment() -> None:
    plain = compose_config([])
    moved = compose_config(["general.logdir=elsewhere", "general.threads=1", "general.progress=false"])
    assert moved.hash() == plain.hash()
    services = ["general.run_wandb=true", "general.tensorboard=true", "wandb.project=x", "wandb.mode=offline"]
    assert compose_config(services).hash() == plain.hash()
    assert compose_config(["general.seed=43"]).hash() != plain.hash()


def test_options_are_checked_where_they_are_built() -> None:
    module = components.load("dynamics", "flow")
    with pytest.raises(ConfigError, match="substeps"):
        build_options(module.Options, {"substeps": "many"}, "alg.dynamics")


@pytest.mark.parametrize(
    ("overrides", "epochs"),
    [
        (["alg=pwm_small"], 100),
        (["alg=pwm_small_h16"], 20),
        (["alg=pwm_small", "alg.num_envs=6"], 67),
        (["alg=pwm_small", "general.eval_every=7"], 7),
    ],
)
def test_short_epochs_are_evaluated_less_often(overrides: list[str], epochs: int) -> None:
    assert compose_config(overrides).eval_every == epochs
