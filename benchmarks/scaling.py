"""What pretraining one world model of MT80 needs on N GPUs, from its configuration alone (docs/scaling.md).

Operations are traced on the meta device; memory and communication follow from sizes. What the machine is
assumed to do stands in ``MACHINE``.

Run with ``python benchmarks/scaling.py``, or with other presets as arguments.
"""

from __future__ import annotations

import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from pwm.algorithm.model_learning import ModelLearner
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.data.batch import Batch
from pwm.envs.task_table import task_set
from pwm.models.world_model import build_world_model

PRESETS = ("pwm_317M", "pwm_317M_flow")
GPUS = (1, 8, 64, 512)
GPUS_PER_NODE = 8
HORIZON, WEAK = 16, 128
# As PWM pretrained: windows of 16 transitions, 1024 of them (`multitask.md`, section 5 of the sources).
RULE = [f"alg.horizon={HORIZON}", "alg.wm_batch_size=1024", "alg.predict_termination=false"]
SEVERAL = ["alg.trainer=pretraining", "alg.task_dim=96", "alg.obs_rms=false", "alg.reward_head.name=two_hot"]
UPDATES = 1_000_000
# An H100: 67 TFLOP/s of float32 products, as training computes them, of which 70 % are reached; NVLink within
# a node, and 400 Gbit/s for each GPU between nodes.
MACHINE = {"flops": 0.7 * 67e12, "node_bytes": 400e9, "network_bytes": 50e9}
# Assumed, too: what launching the kernels of 16 steps of dynamics takes, however few windows there are.
SMALLEST_UPDATE = 0.020


def learner(config: ExperimentConfig) -> ModelLearner:
    """The world model of all tasks with its optimiser, without entries."""
    table = task_set("mt80")
    with torch.device("meta"):
        sizes = config.alg.world_model, config.chosen["dynamics"]
        model = build_world_model(*sizes, table.obs_dim, table.action_dim, len(table.rows))
        return ModelLearner(
            config.alg.model_learning, config.alg.objective, config.alg.optimisation, model, None
        )


def update_flops(learner: ModelLearner, windows: int) -> float:
    """Operations of the gradient on ``windows`` windows."""
    table, steps = task_set("mt80"), learner.objective.horizon
    with torch.device("meta"):
        flags = torch.zeros(steps, windows, dtype=torch.bool)
        batch = Batch(
            torch.zeros(steps + 1, windows, table.obs_dim),
            torch.zeros(steps, windows, table.action_dim),
            torch.zeros(steps, windows),
            flags,
            flags,
            torch.zeros(windows, dtype=torch.int64),
        )
        with FlopCounterMode(display=False) as counter:
            learner.loss(batch, None)[0].backward()
    return float(counter.get_total_flops())


def line(gpus: int, windows: int, flops: float, parameters: int) -> str:
    """Times of an update of ``windows`` windows and ``flops`` operations on each of ``gpus`` GPUs."""
    compute = flops / MACHINE["flops"]
    link = MACHINE["node_bytes"] if gpus <= GPUS_PER_NODE else MACHINE["network_bytes"]
    # A ring sends and receives every gradient twice, but for one share.
    exchange = 2 * (gpus - 1) / gpus * 4 * parameters / link
    update = max(compute, SMALLEST_UPDATE) + exchange
    steps = windows * HORIZON / update
    return (
        f"{gpus:4d} GPUs: {windows:4d} windows each, compute {1e3 * compute:5.1f} ms, exchange "
        f"{1e3 * exchange:4.1f} ms, update {1e3 * update:4.1f} ms, {steps / 1e3:5.0f} k transitions/s "
        f"read by each, {UPDATES / 1e6:.0f} M updates in {UPDATES * update / 3600:4.1f} h"
    )


def main(presets: list[str]) -> None:
    """Print the table of every preset."""
    for preset in presets:
        config = compose_config([*SEVERAL, f"alg={preset}", *RULE])
        model = learner(config)
        parameters = sum(p.numel() for p in model.world_model.parameters())
        windows = config.alg.model_learning.wm_batch_size
        flops = update_flops(model, windows)
        print(f"{preset}: {parameters / 1e6:.1f} M parameters, {flops / 1e12:.1f} TFLOP per update")
        for kind, each in (("1024 windows altogether", None), (f"{WEAK} windows on each GPU", WEAK)):
            print(f"  {kind}:")
            for gpus in GPUS:
                mine = windows // gpus if each is None else each
                print("  " + line(gpus, mine, flops * mine / windows, parameters))


if __name__ == "__main__":
    main(sys.argv[1:] or list(PRESETS))
