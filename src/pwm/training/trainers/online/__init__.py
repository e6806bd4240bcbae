"""Single-task online training: collect, then update actor, critic and world model."""

from __future__ import annotations

import contextlib

from pwm.errors import ConfigError
from pwm.training.agents import fresh_agent
from pwm.training.evaluation import EVAL_ENVS, EVALUATION_SEED
from pwm.training.recorded import open_task
from pwm.training.seeding import stream_seed
from pwm.training.trainer import Setting
from pwm.training.trainers.online.memory import check_memory
from pwm.training.trainers.online.options import Options
from pwm.training.trainers.online.trainer import OnlineTrainer, PriorData

COMPONENTS = ("env", "dynamics", "actor")

__all__ = ["COMPONENTS", "Options", "build"]


def build(setting: Setting) -> OnlineTrainer:
    """Return the trainer with its environments and a fresh agent.

    Raises:
        ConfigError: the replay buffer does not fit into memory, or ``general.pretrain`` lacks the task.
        DataError: ``general.pretrain`` cannot be used.
        EnvError: the environment cannot be made.
    """
    options = setting.options
    with contextlib.ExitStack() as undo:
        env = setting.make_env(options.num_envs, stream_seed(setting.seed, "env"))
        undo.callback(env.close)
        eval_env = setting.make_env(min(EVAL_ENVS, setting.eval_episodes), EVALUATION_SEED)
        undo.callback(eval_env.close)
        check_memory(options, env, eval_env)
        agent = fresh_agent(options, setting.chosen, env.spec, setting.seed, setting.device)
        prior = None
        if setting.prior_data is not None:
            data = open_task(setting.prior_data, options.objective.horizon, env.spec)
            prior = PriorData(data, setting.prior_updates)
        try:
            trainer = OnlineTrainer(options, env, agent, eval_env, prior)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"alg.buffer_size={options.buffer_size} does not fit into memory: {reason}"
            ) from error
        undo.pop_all()
    return trainer
