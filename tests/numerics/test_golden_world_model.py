"""World models of the references, imported and compared number by number."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file
from tests.numerics.golden import FOLDER, Golden, assert_close, set_integrator, world_model_grads
from torch import Tensor, nn

import pwm
from pwm.algorithm.losses import Coefs, world_model_loss
from pwm.data.batch import Batch
from pwm.errors import CheckpointError, ConfigError
from pwm.interop.importers import convert
from pwm.models.dynamics.base import unroll
from pwm.models.flow_world_model import FlowWorldModel
from pwm.models.world_model import WorldModel

SINGLE = ("pwm_world_model_single", "pwm_world_model_bins")
FLOW = (
    "flow_world_model_simnorm",
    "flow_world_model_linear",
    "flow_world_model_bins_padded",
    "flow_world_model_multitask",
)
TDMPC2 = "tdmpc2_multitask_checkpoint"
LAYOUTS = (".pt", "_new_tensordict.pt", "_legacy.pt")
# One file per source, kind of head and number of tasks, and the prefix of its world model.
SAMPLES = [
    *(("pwm", name, "param/") for name in (*SINGLE, "pwm_world_model_multitask")),
    ("pwm", "pwm_actor_loss_multitask", "param/wm/"),
    *(("flow-mbpo", name, "param/") for name in FLOW),
    ("tdmpc2", TDMPC2, "param/"),
]


class RawLogitError(nn.Module):
    """Defect of the references: with bins, every raw logit is regressed onto the scalar reward."""

    def loss(self, raw: Tensor, reward: Tensor) -> Tensor:
        return (raw - reward.unsqueeze(-1)).square().mean(-1)


@contextmanager
def activations(**networks: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Outputs of every layer of the networks in their latest call, as ``mid/<network>/<i>``."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, net in networks.items():
        for i, layer in enumerate(net):

            def keep(_: nn.Module, __: tuple, out: Tensor, key: str = f"mid/{name}/{i}") -> None:
                seen[key] = out

            hooks.append(layer.register_forward_hook(keep))
    yield seen
    for hook in hooks:
        hook.remove()


def loss_and_grads(
    model: WorldModel, golden: Golden, task: Tensor | None, case: str = ""
) -> dict[str, Tensor]:
    """Losses and gradients of the reference's world-model loss, composed of ours."""
    horizon = golden.config["horizon"]
    rewards = golden["in/rew"].squeeze(-1)
    never = torch.zeros_like(rewards, dtype=torch.bool)
    batch = Batch(golden["in/obs"], golden["in/act"], rewards, never, ~never)
    head = model.reward_head
    model.reward_head = RawLogitError()
    model.zero_grad()
    # Defect of the references: the reward loss, a mean over time already, is divided by H once more.
    loss, metrics = world_model_loss(
        model, batch._replace(task=task), golden.config["gamma"], Coefs(reward=1 / horizon)
    )
    loss.backward()
    model.reward_head = head
    grads = world_model_grads(model, isinstance(model, FlowWorldModel))
    return {
        f"out/{case}total_loss": loss,
        f"out/{case}dynamics_loss": metrics["dynamics_loss"],
        f"out/{case}reward_loss": metrics["reward_loss"] / horizon,
    } | {f"grad/{case}{key}": grad.clone() for key, grad in grads.items()}


def expected_bin(model: WorldModel, raw: Tensor) -> Tensor:
    """Scalar rewards [..., 1] as the reference's actor sees them.

    Defect of the references: the expected bin stays in symlog space.
    """
    return model.reward_head.expected_bin(raw).unsqueeze(-1)


@pytest.mark.parametrize("name", SINGLE)
def test_pwm_single_task(name: str) -> None:
    golden = Golden(name)
    model = golden.world_model("pwm")
    assert not model.training
    obs, act = golden["in/obs"], golden["in/act"]
    out: dict[str, Tensor] = {}
    nets = {"encoder": model.encoder, "dynamics": model.dynamics.net, "reward": model.reward_net}
    with torch.no_grad(), activations(**nets) as mid:
        z = model.encode(obs[0])
        out |= {"out/next": model.next(z, act[0]), "out/reward": model.reward(z, act[0])}
        out |= mid
    with torch.no_grad():
        out["out/encode"] = model.encode(obs)
        latents = unroll(model.dynamics, z, act)
        out |= {"out/rollout_z": latents, "out/rollout_reward": model.reward(latents[:-1], act)}
    if golden.config["num_bins"]:
        logits = golden["in/logits"].clone().requires_grad_()
        out["out/two_hot_inv"] = model.reward_head.decode(logits).unsqueeze(-1)
        out["out/almost_two_hot_inv"] = expected_bin(model, logits)
        out["out/rollout_reward_scalar"] = expected_bin(model, golden["out/rollout_reward"])
        out["out/almost_two_hot_inv"].sum().backward()
        out["grad/almost_two_hot_inv/logits"] = logits.grad
    out |= loss_and_grads(model, golden, None)
    grads = [grad.double() for key, grad in out.items() if key.startswith("grad/_")]
    out["out/grad_norm"] = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
    golden.check(out)


def test_pwm_multitask() -> None:
    golden = Golden("pwm_world_model_multitask")
    model = golden.world_model("pwm")
    task, obs, act = golden["in/task"], golden["in/obs"], golden["in/act"]
    unmasked = golden["in/act_unmasked"]
    out: dict[str, Tensor] = {}
    with torch.no_grad():
        z = model.encode(obs[0], task)
        z3 = model.encode(obs[:-1], task)
        out |= {
            "out/encode_2d": z,
            "out/next_2d": model.next(z, act[0], task),
            "out/reward_2d": model.reward(z, act[0], task),
            "out/reward_2d_scalar": expected_bin(model, model.reward(z, act[0], task)),
            "out/next_2d_unmasked": model.next(z, unmasked[0], task),
            "out/reward_2d_unmasked": model.reward(z, unmasked[0], task),
            "out/encode_3d": z3,
            "out/next_3d": model.next(z3, act, task),
            "out/reward_3d": model.reward(z3, act, task),
            "out/encode_int_task": model.encode(obs[0], 1),
            "out/encode_len1_task": model.encode(obs[0], torch.tensor([3])),
        }
    out |= loss_and_grads(model, golden, task)
    # The reference shortens only the rows it has looked up, we shorten all of them.
    table = golden["param/_task_emb.weight"].clone()
    used = sorted({*task.tolist(), 1, 3})
    table[used] = model.task_embedding.weight.detach()[used]
    out["out/task_emb_after"] = table
    golden.check(out)


@pytest.mark.parametrize("name", FLOW)
def test_flow_fork(name: str) -> None:
    golden = Golden(name)
    config = golden.config
    model = golden.world_model("flow-mbpo")
    obs, act = golden["in/obs"], golden["in/act"]
    task = golden.tensors.get("in/task")
    horizon = config["horizon"]
    with torch.no_grad():
        z = model.encode(obs[0], task)
        latents = [z]
        for t in range(horizon):
            latents.append(model.next(latents[-1], act[t], task, "heun", 2))
        rollout = torch.stack(latents)
        out = {
            "out/encode": model.encode(obs, task),
            "out/velocity": model.velocity(z, act[0], golden["in/tau"][0], task),
            "out/reward": model.reward(z, act[0], task),
            "out/next_default": model.next(z, act[0], task),
            "out/rollout_z_heun_2": rollout,
            "out/rollout_reward_heun_2": model.reward(rollout[:-1], act, task),
        }
        for integrator in ("euler", "heun"):
            for substeps in (1, 2, 8):
                out[f"out/next_{integrator}_{substeps}"] = model.next(z, act[0], task, integrator, substeps)
        if config["head"] == "simnorm":
            out["out/rollout_group_sum"] = rollout.unflatten(-1, (-1, config["simnorm_dim"])).sum(-1)
        if config["num_bins"]:
            out["out/reward_scalar"] = expected_bin(model, out["out/reward"])
    for case, setting in config["loss_cases"].items():
        model = golden.world_model("flow-mbpo")
        dynamics = model.dynamics
        set_integrator(model, setting["integrator"], setting["substeps"], setting["tau"])
        if setting["tau"] == "uniform":
            dynamics.draw = lambda *_: golden["in/tau"]
        out |= loss_and_grads(model, golden, task, f"{case}/")
    golden.check(out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tdmpc2_checkpoint(layout: str) -> None:
    golden = Golden(TDMPC2)
    model = pwm.load_world_model(FOLDER / f"{TDMPC2}{layout}", source="tdmpc2", simnorm_dim=8)
    task, obs, act = golden["in/task"], golden["in/obs"], golden["in/act"]
    out: dict[str, Tensor] = {}
    with torch.no_grad():
        z, z3 = model.encode(obs[0], task), model.encode(obs, task)
        raw = model.reward(z, act[0], task)
        for reference in ("tdmpc2", "pwm"):
            out |= {
                f"out/{reference}/encode_2d": z,
                f"out/{reference}/next_2d": model.next(z, act[0], task),
                f"out/{reference}/reward_2d": raw,
                f"out/{reference}/encode_3d": z3,
                f"out/{reference}/next_3d": model.next(z3[:-1], act, task),
                f"out/{reference}/reward_3d": model.reward(z3[:-1], act, task),
            }
        out["out/tdmpc2/reward_2d_scalar"] = model.reward_head.decode(raw).unsqueeze(-1)
        out["out/pwm/pwm_reward_2d_scalar"] = expected_bin(model, raw)
    table = golden["param/_task_emb.weight"].clone()
    used = task.unique()
    table[used] = model.task_embedding.weight.detach()[used]
    out["out/tdmpc2/task_emb_after"] = table
    golden.check(out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_task_of_a_tdmpc2_checkpoint(layout: str) -> None:
    golden = Golden(TDMPC2)
    tolerance = golden.tolerance["out"]
    masks, tasks = golden["param/_action_masks"], golden["in/task"]
    assert len(tasks.unique()) == len(masks)
    for task in tasks.unique().tolist():
        model = pwm.load_world_model(FOLDER / f"{TDMPC2}{layout}", source="tdmpc2", task=task)
        assert model.task_embedding is None
        rows = tasks == task
        act = golden["in/act"][0, rows]
        # The oldest layout does not say which actions a task has.
        act = act if layout == "_legacy.pt" else act[:, : int(masks[task].sum())]
        with torch.no_grad():
            z = model.encode(golden["in/obs"][0, rows])
            found = {"encode": z, "next": model.next(z, act), "reward": model.reward(z, act)}
        for name, value in found.items():
            assert_close(value, golden[f"out/tdmpc2/{name}_2d"][rows], tolerance, f"{name} of task {task}")


def test_all_tdmpc2_layouts_hold_the_same_model() -> None:
    states = [
        pwm.load_world_model(FOLDER / f"{TDMPC2}{layout}", source="tdmpc2").state_dict() for layout in LAYOUTS
    ]
    states.append(Golden(TDMPC2).world_model("tdmpc2").state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)


def network_keys(golden: Golden, prefix: str) -> list[str]:
    """Keys of the networks that are imported."""
    kinds = ("_encoder", "_dynamics", "_velocity", "_reward")
    return [key for key in golden.below(prefix) if key.startswith(kinds)]


@pytest.mark.parametrize(("source", "name", "prefix"), SAMPLES)
def test_every_missing_or_misshaped_key_is_named(source: str, name: str, prefix: str) -> None:
    golden = Golden(name)
    config = golden.config
    load = functools.partial(
        pwm.load_world_model,
        source=source,
        simnorm_dim=config["simnorm_dim"],
        vmin=config.get("vmin"),
        vmax=config.get("vmax"),
    )
    full = golden.below(prefix)
    for key in network_keys(golden, prefix):
        with pytest.raises(CheckpointError, match=f"missing: {key}"):
            load({k: v for k, v in full.items() if k != key})
    head_bias = [k for k in full if k.startswith("_reward") and k.endswith("bias")][-1]
    first = "_encoder.state.0.weight" if source == "tdmpc2" else "_encoder.0.weight"
    broken = full | {head_bias: torch.zeros(7), "_surprise.0.weight": torch.zeros(2, 2)}
    del broken[first]
    with pytest.raises(CheckpointError) as caught:
        load(broken)
    for part in (f"missing: {first}", "unexpected: _surprise.0.weight", f"wrong shape: {head_bias} [7]"):
        assert part in str(caught.value)


def test_widths_that_contradict_each_other() -> None:
    full = Golden("pwm_world_model_single").below("param/")
    for key, wrong in (
        ("_reward.0.weight", torch.zeros(72, 60)),
        ("_dynamics.0.weight", torch.zeros(72, 56)),
        ("_dynamics.1.weight", torch.zeros(76, 71)),
    ):
        with pytest.raises(CheckpointError, match="wrong shape"):
            pwm.load_world_model(full | {key: wrong})


def test_what_is_no_tensor_is_an_error_outside_the_q_ensembles() -> None:
    full = Golden("pwm_world_model_single").below("param/")
    for value in (None, torch.Size([3]), torch.zeros(3, device="meta"), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(CheckpointError, match="_extra"):
            pwm.load_world_model({**full, "_extra": value})
    # Known only to TD-MPC2.
    with pytest.raises(CheckpointError, match="__device"):
        pwm.load_world_model({**full, "_Qs.params.__device": None})


def test_a_missing_task_table_is_noticed_where_action_masks_show_it() -> None:
    full = Golden(TDMPC2).below("param/")
    del full["_task_emb.weight"]
    with pytest.raises(CheckpointError, match=r"missing: _task_emb\.weight"):
        pwm.load_world_model(full, source="tdmpc2")


def test_bins_need_a_range_and_sources_a_name() -> None:
    full = Golden("pwm_world_model_bins").below("param/")
    with pytest.raises(ConfigError, match="vmin"):
        pwm.load_world_model(full, vmin=None)
    with pytest.raises(ConfigError, match="flow-mbpo"):
        pwm.load_world_model(full, source="dreamer")


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Golden("pwm_world_model_single").world_model("pwm")
    assert torch.equal(torch.get_rng_state(), before)


def test_padding_is_consistent_and_never_cuts() -> None:
    golden = Golden("flow_world_model_bins_padded")
    model = golden.world_model("flow-mbpo")
    obs, act = golden["in/obs"][0], golden["in/act"][0]
    z = model.encode(obs)
    with pytest.raises(ValueError, match="width"):
        model.next(z, act[:, :-1])
    with pytest.raises(ValueError, match="width"):
        model.encode(torch.cat((obs, obs), dim=-1))
    # Other sources know no padding.
    plain = Golden("pwm_world_model_single")
    with pytest.raises(RuntimeError, match="shapes"):
        plain.world_model("pwm").encode(plain["in/obs"][0, :, :-1])


@pytest.mark.parametrize(("source", "name", "prefix"), SAMPLES)
def test_convert_round_trip(source: str, name: str, prefix: str, tmp_path) -> None:
    golden = Golden(name)
    config = golden.config
    src, dst = tmp_path / "src.safetensors", tmp_path / "dst.pt"
    save_file(golden.below(prefix), src)
    given = (config["simnorm_dim"], config.get("vmin"), config.get("vmax"))
    convert(src, dst, source, *given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst.pt", "src.safetensors"]
    original = pwm.load_world_model(src, source, *given)
    copy = pwm.load_world_model(dst, source="flow-pwm")
    assert type(copy) is type(original)
    assert not copy.training
    states = original.state_dict(), copy.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    obs = golden.tensors["in/obs"][0] if "in/obs" in golden.tensors else golden["in/obs0"]
    act = golden.tensors["in/act"][0] if "in/act" in golden.tensors else golden["in/noise"][0].tanh()
    task = golden.tensors.get("in/task")
    z = original.encode(obs, task)
    assert torch.equal(copy.encode(obs, task), z)
    assert torch.equal(copy.next(z, act, task), original.next(z, act, task))
    assert torch.equal(copy.reward(z, act, task), original.reward(z, act, task))
    decoded = [model.reward_head.decode(model.reward(z, act, task)) for model in (original, copy)]
    assert torch.equal(*decoded)
    with pytest.raises(CheckpointError, match="exists already"):
        convert(src, dst, source, *given)


def test_convert_and_load_refuse_what_is_not_there(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "nothing.pt", tmp_path / "dst.pt", "pwm")
    assert list(tmp_path.iterdir()) == []
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no checkpoint")
        with pytest.raises(CheckpointError, match="cannot read"):
            pwm.load_world_model(tmp_path / name)
    torch.save({"format": "flow-pwm/world-model", "version": 1, "sizes": {}}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="sizes"):
        pwm.load_world_model(tmp_path / "empty.pt", source="flow-pwm")


def test_import_shortens_task_rows() -> None:
    golden = Golden("pwm_world_model_multitask")
    stored = golden["param/_task_emb.weight"]
    assert (stored.norm(dim=-1) > 1).any()
    table = golden.world_model("pwm").task_embedding.weight.detach()
    assert (table.norm(dim=-1) <= 1).all()
    short = stored.norm(dim=-1) <= 1
    assert torch.equal(table[short], stored[short])


def test_converted_task_rows_do_not_move_again(tmp_path) -> None:
    state = Golden("pwm_world_model_multitask").below("param/")
    task_dim = state["_task_emb.weight"].shape[1]
    # Shortened rows of which rounding leaves some a trifle longer than 1.
    table = 5 * torch.randn(300, task_dim, generator=torch.Generator().manual_seed(0))
    save_file(state | {"_task_emb.weight": table}, tmp_path / "src.safetensors")
    convert(tmp_path / "src.safetensors", tmp_path / "dst.pt", "pwm")
    first = pwm.load_world_model(tmp_path / "src.safetensors").task_embedding.weight.detach()
    assert (first.norm(dim=-1) > 1).any()
    copy = pwm.load_world_model(tmp_path / "dst.pt", source="flow-pwm")
    assert torch.equal(copy.task_embedding.weight.detach(), first)
