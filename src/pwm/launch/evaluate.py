"""``pwm evaluate``: real rewards of saved policies on held-out episodes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pwm.launch.arguments import Commands, add_json, add_parser, add_planner, print_json, typed_path

EVALUATE_HELP = """\
Evaluate policies with real rewards on episodes that training never saw.

  pwm evaluate logs/dflex_hopper/pwm_small/seed1 --checkpoint best --episodes 64
  pwm evaluate 'logs/**/seed*' --checkpoint final
  pwm evaluate logs --checkpoint all
  pwm evaluate --checkpoint 'logs/*/*/seed1/best_policy.pt'
  pwm evaluate logs --checkpoint final --json > results.json

A RUN is a run folder, a folder above several of them, a policy file, or a quoted pattern of these. A
checkpoint is best, final, all of a run (best, final and every kept one), a file in the run folder, or, where
no RUN is given, the path of a policy file or a quoted pattern. With `all` every run's peak is shown against
its final policy.

The results of each policy are stored beside it as evaluation_<policy>.json, those of a planner as
evaluation_<policy>_<planner>.json.
"""
DEFAULT_ROOT = Path("logs")


def add_commands(commands: Commands) -> None:
    """Add ``evaluate`` to the parser's subcommands."""
    evaluate = add_parser(
        commands,
        "evaluate",
        run_evaluate,
        "evaluate finished or running runs with real rewards",
        EVALUATE_HELP,
    )
    evaluate.add_argument(
        "runs", nargs="*", metavar="RUN", help="run folder, folder above, policy file or quoted pattern"
    )
    evaluate.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|final|all|FILE",
        help="which policies of each run (default: best)",
    )
    evaluate.add_argument("--episodes", type=int, default=32, help="episodes of every policy (default: 32)")
    evaluate.add_argument("--seed", type=int, default=None, help="seed of the evaluation episodes")
    evaluate.add_argument("--device", default="cpu")
    add_planner(evaluate)
    add_json(evaluate)
    evaluate.add_argument("--task", default=None, help="refuse checkpoints of any other task")
    evaluate.add_argument(
        "--output",
        type=typed_path,
        metavar="FILE",
        help="also write all results to this JSON file, and as a table to one that ends in .csv; default "
        "with --checkpoint all: checkpoints.json in the folder that is evaluated",
    )
    evaluate.add_argument(
        "--video",
        type=typed_path,
        metavar="FILE",
        help="film the first episode of one policy into FILE.mp4 or FILE.gif",
    )


def run_evaluate(args: argparse.Namespace) -> None:
    """``pwm evaluate``."""
    from pwm.analysis.tables.checkpoint_table import output_files, peak_against_final, write_results
    from pwm.checkpoints.policy_evaluation import evaluate_policies, table
    from pwm.checkpoints.policy_files import ALL, select_policies

    everything = args.checkpoint == ALL
    runs = args.runs or ([DEFAULT_ROOT] if everything else [])
    policies = select_policies(runs, args.checkpoint)
    output = args.output
    if output is None and everything:
        folder = Path(runs[0]).expanduser() if len(runs) == 1 else Path()
        output = (folder if folder.is_dir() else Path()) / "checkpoints.json"
    files = None if output is None else output_files(output)
    # First: a machine that cannot draw says so before anything is evaluated.
    if args.video is not None:
        from pwm.analysis.plots.video import film_run

        film = film_run(
            policies, args.checkpoint, args.video, args.episodes, args.seed, args.device, args.task
        )
        print(film, file=sys.stderr if args.json else sys.stdout)
    results = evaluate_policies(policies, args.episodes, args.seed, args.device, args.task, args.planner)
    if files is not None:
        write_results(files, results)
    if args.json:
        print_json(results)
        return
    print(table(results))
    if everything:
        print(peak_against_final(results))
    if args.output is None and files is not None:
        print(*files, sep="\n")
