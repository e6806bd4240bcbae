"""Extraction: actor and critics for one task, learned inside a given world model from recorded states."""

from __future__ import annotations

import contextlib

from pwm.training.agents import fresh_agent
from pwm.training.evaluation import EVAL_ENVS, EVALUATION_SEED
from pwm.training.recorded import open_task
from pwm.training.trainer import Setting
from pwm.training.trainers.extraction.options import Options
from pwm.training.trainers.extraction.trainer import ExtractionTrainer

COMPONENTS = ("env", "dynamics", "actor")

__all__ = ["COMPONENTS", "Options", "build"]


def build(setting: Setting) -> ExtractionTrainer:
    """Return the trainer with its data, its environment for evaluations, and a fresh agent.

    Raises:
        ConfigError: the data set does not know the task.
        DataError: the data set cannot be used, or has other widths.
        EnvError: the environment cannot be made.
    """
    options: Options = setting.options
    setting.refuse_prior_data("extraction")
    with contextlib.ExitStack() as undo:
        env = setting.make_env(min(EVAL_ENVS, setting.eval_episodes), EVALUATION_SEED)
        undo.callback(env.close)
        data = open_task(options.data, options.objective.horizon, env.spec)
        agent = fresh_agent(options, setting.chosen, env.spec, setting.seed, setting.device)
        trainer = ExtractionTrainer(options, agent, data, env)
        undo.pop_all()
    return trainer
