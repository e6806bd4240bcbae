"""``pwm parity``: are two world models the same size?"""

from __future__ import annotations

import argparse

from pwm.errors import ConfigError
from pwm.launch.arguments import Commands, add_parser

PARITY_HELP = """\
Count the parameters of two world models and compare them, part by part.

  pwm parity --baseline pwm_48M --candidate pwm_48M_flow --env dflex_ant
  pwm parity --baseline pwm_5M --candidate pwm_5M_flow alg.dynamics.units=[600,600] --obs-dim 55 --act-dim 8

A pair passes at a difference of at most 2 % if nothing but the width of the candidate's dynamics differs.
When it fails, the width that restores parity is printed as an override.

Exit code 0: PASS; 1: FAIL; 2: an error.
"""


def add_commands(commands: Commands) -> None:
    """Add ``parity`` to the parser's subcommands."""
    parity = add_parser(commands, "parity", run_parity, "compare the sizes of two world models", PARITY_HELP)
    for side in ("baseline", "candidate"):
        parity.add_argument(
            f"--{side}", nargs="+", required=True, metavar=("ALG", "key=value"), help="preset and overrides"
        )
    parity.add_argument("--obs-dim", type=int, default=None, help="width of observations, with --act-dim")
    parity.add_argument("--act-dim", type=int, default=None, help="width of actions, with --obs-dim")
    parity.add_argument(
        "--tasks", default=None, metavar="SET", help="models of all tasks of mt30 or mt80, with its widths"
    )
    parity.add_argument("--latent-dim", type=int, default=None, help="width of both models' latents")
    parity.add_argument(
        "--env",
        nargs="+",
        default=None,
        metavar=("ENV", "key=value"),
        help="take the widths from this task, e.g. dflex_ant, or gym env.id=HalfCheetah-v5",
    )


def run_parity(args: argparse.Namespace) -> int:
    """``pwm parity``; returns the exit code."""
    from pwm.analysis.cost.named_size import explain_size
    from pwm.analysis.cost.parameter_parity import check_parity, task_sizes
    from pwm.configuration.config import compose_config

    given = (args.obs_dim, args.act_dim)
    if (None in given) != (given == (None, None)):
        raise ConfigError("give --obs-dim and --act-dim together, or take both from --env")
    if sum([None not in given, args.env is not None, args.tasks is not None]) > 1:
        raise ConfigError("give either --obs-dim and --act-dim, or --env, or --tasks, not both")
    common = [] if args.env is None else [f"env={args.env[0]}", *args.env[1:]]
    if args.latent_dim is not None:
        common.append(f"alg.latent_dim={args.latent_dim}")
    baseline, candidate = (
        compose_config([f"alg={preset}", *common, *overrides])
        for preset, *overrides in (args.baseline, args.candidate)
    )
    n_tasks = 0
    if args.tasks is not None:
        from pwm.envs.task_table import task_set

        tasks = task_set(args.tasks)
        obs_dim, act_dim, n_tasks = tasks.obs_dim, tasks.action_dim, len(tasks.rows)
    else:
        obs_dim, act_dim = task_sizes(baseline) if None in given else given
    parity = check_parity(baseline, candidate, obs_dim, act_dim, n_tasks)
    print(f"baseline {' '.join(args.baseline)}, candidate {' '.join(args.candidate)}")
    print(f"observations {obs_dim}, actions {act_dim}, latents {candidate.alg.world_model.latent_dim}")
    print(parity.report())
    if (size := explain_size(baseline, obs_dim, act_dim)) is not None:
        print(size)
    return 0 if parity.passed else 1
