"""Times one training epoch of PWM against a plain eager PyTorch epoch of the same sizes.

All contenders take turns in one process, so that whatever else the machine does falls on each alike.
They do the same work: lockstep collection in an environment that costs nothing, one actor update, the
same number of critic and world-model updates.

Run with ``python benchmarks/epoch_speed.py --preset ant``.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from plain_epoch import PRESETS, EpochSizes, PlainEpoch

from pwm.analysis.cost.operations import epoch_flops
from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import compose_config
from pwm.logging.monitoring import PhaseTimer
from pwm.models import fused
from pwm.models.precision import bfloat16_is_fast, products_in
from pwm.training.trainers.online.trainer import OnlineTrainer

# flow_euler is the default of dynamics=flow, which trains along the model's own rollout; teacher starts every
# transition from its encoded observation and unrolls nothing.
CONTENDERS = {
    "mlp": ["dynamics=mlp"],
    "flow_euler_teacher": ["dynamics=flow", "alg.flow_source=teacher"],
    "flow_euler": ["dynamics=flow"],
    "flow_heun": [
        "dynamics=flow",
        "alg.flow_source=teacher",
        "alg.flow_integrator=heun",
        "alg.flow_substeps=2",
    ],
    "flow_heun_rollout": ["dynamics=flow", "alg.flow_integrator=heun", "alg.flow_substeps=2"],
}
# The MLP with products in bfloat16, where the processor has them.
BFLOAT16 = "mlp_bfloat16"
PHASES = {"actor": "actor", "critic": "critic", "wm": "world_model", "total": "total"}
TARGETS = {
    "speedup_over_plain": ">= 1.8",
    "flow_euler_teacher_over_mlp": "<= 1.25",
    "flow_heun_over_mlp": "<= 1.8",
    "flow_euler_over_mlp": "<= 1.15",
    "flow_heun_rollout_over_mlp": "<= 1.8",
}


def overrides(sizes: EpochSizes) -> list[str]:
    """Configuration of our epoch with the sizes of the plain one."""

    def units(values: tuple[int, ...]) -> str:
        return f"[{','.join(map(str, values))}]"

    # Different lengths let the episodes of the environments end at different times.
    lengths = tuple(sizes.episode_length - i for i in range(sizes.num_envs))
    return [
        "alg=pwm",
        "env=analytic",
        "env.task=counting",
        f"env.obs_dim={sizes.obs_dim}",
        f"env.act_dim={sizes.act_dim}",
        f"env.episode_lengths={units(lengths)}",
        "env.ends=[terminated,truncated]",
        f"alg.num_envs={sizes.num_envs}",
        f"alg.horizon={sizes.horizon}",
        f"alg.latent_dim={sizes.latent_dim}",
        f"alg.encoder_units={units(sizes.encoder_units)}",
        f"alg.reward_units={units(sizes.units)}",
        f"alg.dynamics.units={units(sizes.units)}",
        f"alg.actor.units={units(sizes.actor_units)}",
        f"alg.critic_units={units(sizes.critic_units)}",
        f"alg.num_critics={sizes.num_critics}",
        f"alg.critic_iterations={sizes.critic_iterations}",
        f"alg.critic_batches={sizes.critic_batches}",
        f"alg.wm_iterations={sizes.model_iterations}",
        f"alg.wm_batch_size={sizes.model_batch}",
        f"alg.buffer_size={sizes.buffer_size}",
        f"alg.warmup_env_steps={sizes.num_envs * sizes.episode_length}",
    ]


class OurEpoch:
    """Agent, environment and replay of one run of this package; ``run`` does one epoch.

    The compiled kernel is used where it can be had, as ``pwm train`` does.
    """

    def __init__(self, sizes: EpochSizes, changes: list[str], precision: str = "float32") -> None:
        config = compose_config([*overrides(sizes), *changes])
        self.precision = precision
        device = torch.device("cpu")
        env = build_env(config, sizes.num_envs, 0, device)
        self.trainer = OnlineTrainer(config.alg, env, build_agent(config, env.spec, device))
        self.trainer.warm_up()

    def run(self) -> dict[str, float]:
        """One epoch; seconds spent per phase ("actor" includes the environment and its storage)."""
        timer = PhaseTimer()
        with fused.enabled("auto"), products_in(self.precision), timer("total"):
            self.trainer.run_epoch(0.0, timer)
        return {PHASES[phase]: seconds for phase, seconds in timer.seconds.items() if phase in PHASES}


def time_epochs(preset: str, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Seconds per phase of ``repeats`` epochs of every contender, after one epoch of warming up."""
    sizes = PRESETS[preset]
    contenders = {"plain": PlainEpoch(sizes)} | {n: OurEpoch(sizes, c) for n, c in CONTENDERS.items()}
    if bfloat16_is_fast():
        contenders[BFLOAT16] = OurEpoch(sizes, CONTENDERS["mlp"], "bfloat16")
    timings: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, contender in contenders.items():
            timings[name].append(contender.run())
    return {name: rows[1:] for name, rows in timings.items()}


def ratio(over: list[dict[str, float]], under: list[dict[str, float]]) -> float:
    """Median over rounds of the ratio of two contenders' epochs; both of a round met the same load."""
    return statistics.median(a["total"] / b["total"] for a, b in zip(over, under, strict=True))


def measure(preset: str = "ant", repeats: int = 5) -> dict[str, float]:
    """Return ``epoch/<preset>/...``: median and minimum seconds per contender and phase, and the ratios."""
    timings = time_epochs(preset, repeats)
    found = {}
    for name, rows in timings.items():
        for phase in PHASES.values():
            seconds = [row[phase] for row in rows]
            found[f"epoch/{preset}/{name}/{phase}_seconds"] = statistics.median(seconds)
            found[f"epoch/{preset}/{name}/{phase}_seconds_min"] = min(seconds)
    found[f"epoch/{preset}/speedup_over_plain"] = ratio(timings["plain"], timings["mlp"])
    if BFLOAT16 in timings:
        found[f"epoch/{preset}/{BFLOAT16}_speedup_over_plain"] = ratio(timings["plain"], timings[BFLOAT16])
    for name in CONTENDERS:
        if name != "mlp":
            found[f"epoch/{preset}/{name}_over_mlp"] = ratio(timings[name], timings["mlp"])
            found[f"epoch/{preset}/{name}_over_mlp_in_operations"] = operations(preset, name, "mlp")
    return found


def operations(preset: str, over: str, under: str) -> float:
    """Ratio of the operations in an epoch of two contenders, which their times would have at one rate."""
    sizes = PRESETS[preset]
    one, other = (
        epoch_flops(compose_config([*overrides(sizes), *CONTENDERS[name]]), sizes.obs_dim, sizes.act_dim)
        for name in (over, under)
    )
    return one["total"] / other["total"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="ant")
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs of every contender")
    options = parser.parse_args()
    found = measure(options.preset, options.repeats)
    prefix = f"epoch/{options.preset}"
    print(f"{options.preset} sizes, {options.repeats} rounds, {torch.get_num_threads()} torch threads")
    print("seconds, median (minimum)" + " " * 3 + "".join(f"{phase:>20}" for phase in PHASES.values()))
    timed = [key.split("/")[2] for key in found if key.endswith("/total_seconds")]
    for name in timed:
        cells = [
            f"{found[f'{prefix}/{name}/{p}_seconds']:.3f} ({found[f'{prefix}/{name}/{p}_seconds_min']:.3f})"
            for p in PHASES.values()
        ]
        print(f"{name:<28}" + "".join(f"{cell:>20}" for cell in cells))
    for key in (key.removeprefix(f"{prefix}/") for key in found if "_over_" in key):
        target = f"   target {TARGETS[key]}" if key in TARGETS else ""
        print(f"{key:<48}{found[f'{prefix}/{key}']:>8.2f}{target}")


if __name__ == "__main__":
    main()
