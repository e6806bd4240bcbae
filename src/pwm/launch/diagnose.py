"""``pwm diagnose``: how smooth and how right are a run's world model and critic?"""

from __future__ import annotations

import argparse

from pwm.launch.arguments import Commands, add_parser, typed_path

DIAGNOSE_HELP = """\
Record real episodes of a run's policy and judge its world model and critic on them: open-loop error of
latents and rewards up to 64 steps, return in imagination and in reality, calibration of the values, Jacobians
of one and of composed steps, and the integration error of flow dynamics.

  pwm diagnose logs/dflex_hopper/pwm_small_flow/seed1
  pwm diagnose logs/dflex_hopper/pwm_small/seed1 --checkpoint final --episodes 32 --output diagnosis/mlp

Prints a summary and writes it as diagnosis.txt, with all figures in diagnosis.json, and two pictures.
docs/diagnosis.md says what every figure means.
"""


def add_commands(commands: Commands) -> None:
    """Add ``diagnose`` to the parser's subcommands."""
    diagnose = add_parser(
        commands,
        "diagnose",
        run_diagnose,
        "judge the world model and the critic of one run on real episodes",
        DIAGNOSE_HELP,
    )
    diagnose.add_argument("run_or_policy", type=typed_path, metavar="RUN", help="run folder or policy file")
    diagnose.add_argument("--checkpoint", choices=("best", "final"), default="best")
    diagnose.add_argument("--episodes", type=int, default=16, help="real episodes to record")
    diagnose.add_argument("--seed", type=int, default=None, help="seed of episodes and random directions")
    diagnose.add_argument("--device", default="cpu")
    diagnose.add_argument(
        "--output",
        type=typed_path,
        default=None,
        metavar="DIR",
        help="where to write (default: the run folder)",
    )


def run_diagnose(args: argparse.Namespace) -> None:
    """``pwm diagnose``."""
    from pwm.analysis.model_quality.diagnosis import diagnose_run

    print(
        diagnose_run(args.run_or_policy, args.checkpoint, args.episodes, args.seed, args.device, args.output)
    )
