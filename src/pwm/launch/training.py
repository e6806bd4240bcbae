"""What ``pwm train``, ``pwm pretrain`` and ``pwm extract`` do with a configuration."""

from __future__ import annotations

from pwm.configuration.config import ExperimentConfig


def run_configured(config: ExperimentConfig, print_config: bool, found: str) -> int:
    """Train as ``config`` says, draw the pictures, and say what came of it; returns the exit code.

    Args:
        config: the run.
        print_config: only print it.
        found: what an evaluation measures, for the last line.
    """
    if print_config:
        print(config.to_yaml(), end="")
        return 0
    from pwm.runs import preemption
    from pwm.runs.run import train

    result = train(config)
    if not result.leads:
        return preemption.EXIT_CODE if result.outcome == "preempted" else 0
    if result.outcome == "preempted":
        print(f"{result.folder} was preempted; the same command continues it")
        return preemption.EXIT_CODE
    if result.outcome == "already finished":
        print(f"{result.folder} is already finished; raise general.epochs to train it further")
    from pwm.analysis.plots.visualization import TrainingVisualizer
    from pwm.numbers import readable

    TrainingVisualizer(result.folder).generate_all_plots()
    print(f"best {found} {readable(result.best_return)} at epoch {result.best_epoch}: {result.folder}")
    return 0
