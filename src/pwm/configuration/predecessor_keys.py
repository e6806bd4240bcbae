"""Names of the configurations of PWM and of Flow-MBPO-PWM, and what takes their place here.

``ALIASES`` work as they are. All other keys of those configurations are refused with a word on what to use.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# Override names of the predecessors' documentation, and where the value lives here.
ALIASES = {
    "seed": "general.seed",
    "alg.flow_integrator": "alg.dynamics.integrator",
    "alg.flow_substeps": "alg.dynamics.substeps",
    "alg.flow_tau_sampling": "alg.dynamics.tau_sampling",
    "alg.flow_source": "alg.dynamics.flow_source",
    "alg.velocity_head": "alg.dynamics.velocity_head",
    "dynamics": "dynamics@alg.dynamics",
    "actor": "actor@alg.actor",
}
# Chooses the dynamics: flow, or the MLP.
USE_FLOW = "alg.use_flow_dynamics"

CLASSES = "networks are chosen by name: dynamics=NAME, actor=NAME"
CONTINUED = "the same command continues a run with its replay buffer (general.resume)"
MULTITASK = "`pwm pretrain tasks=... data=...` learns several tasks, whose widths the data set knows"
UNITS = "alg.dynamics.units and alg.reward_units (widths of the dynamics and of the reward network)"
ALWAYS = "this is always so and needs no key"

# Pattern of keys -> what takes their place.
SUCCESSORS = {
    "units": UNITS,
    "alg.units": UNITS,
    "*world_model_config.units": UNITS,
    "*flow_model_config.units": UNITS,
    "*_model_config.encoder_units": "alg.encoder_units",
    "*_model_config.num_bins": "alg.reward_head.name=two_hot with alg.reward_head.num_bins",
    "*_model_config.vmin": "alg.reward_head.vmin, with alg.reward_head.name=two_hot",
    "*_model_config.vmax": "alg.reward_head.vmax, with alg.reward_head.name=two_hot",
    "*_model_config.task_dim": "alg.task_dim",
    "*_model_config.latent_dim": "alg.latent_dim",
    "*_model_config.multitask": MULTITASK,
    "*_model_config.tasks": MULTITASK,
    "*_model_config.action_dims": MULTITASK,
    "*_model_config.*simnorm_dim": "alg.simnorm_dim",
    "*_model_config.*last_layer*": "alg.velocity_head for flow dynamics; all other output layers are fixed",
    "*_model_config.*flow_*": "alg.dynamics.integrator, .substeps and .tau_sampling",
    "*flow_model_config.*": "alg.dynamics.units, .integrator, .substeps, .tau_sampling and .velocity_head",
    "*world_model_config": "alg.encoder_units, alg.reward_units and alg.dynamics.units",
    "*flow_model_config": "alg.dynamics.units, .integrator, .substeps, .tau_sampling and .velocity_head",
    "*_model_config.*": "alg.encoder_units, alg.reward_units, alg.reward_head and alg.dynamics",
    "*actor_config.units": "alg.actor.units",
    "*actor_config.activation_class": "alg.actor.act",
    "*actor_config.init_logstd": "alg.actor.init_log_std",
    "*actor_config.min_logstd": "alg.actor.min_log_std",
    "*actor_config*": "alg.actor.units, .act, .init_log_std and .min_log_std",
    "*critic_config*": "alg.critic_units",
    "*wm_buffer_size": "alg.buffer_size",
    "*critic_method": "alg.lam; TD(lambda) is used always, and alg.lam=0 looks one step ahead",
    "*.detach": ALWAYS,
    "*.planning": "`pwm evaluate RUN --planner mppi`; training acts as the policy says",
    "alg.save_interval": "general.checkpoint_every (epochs) keeps policies, general.save_interval (s) saves",
    "alg.device": "general.device",
    "alg.name": "alg=NAME",
    "*._target_": CLASSES,
    "*._recursive_": CLASSES,
    "*.betas": "alg.adam_betas",
    "*.steps_m[ia][nx]": "alg.horizon",
    "*num_actors": "alg.num_envs",
    "env.config.num_envs": "alg.num_envs",
    "env.config.episode_length": "env.episode_length",
    "env.config.render": "`pwm evaluate RUN --video FILE`",
    "env.config.device": "general.device",
    "env.config.MM_caching_frequency": "nothing: the simulator has no cached mass matrix",
    "env.config.stochastic_init": ALWAYS,
    "env.config.early_termination": ALWAYS,
    "env.config.no_grad": "nothing: gradients never pass through the simulator",
    "env.config*": "env.substeps, env.episode_length and alg.num_envs; rewards of dflex tasks are fixed",
    "env.shac*": "alg=NAME; SHAC is not part of this release",
    "general.train": "`pwm train` trains, `pwm evaluate` evaluates",
    "general.render": "`pwm evaluate RUN --video FILE`",
    "general.checkpoint_with_buffer": CONTINUED,
    "general.resume_training": CONTINUED,
    "general.resume_from": CONTINUED,
    "*pretrain": "general.pretrain=FOLDER and general.pretrain_steps",
    "*pretrain_steps": "general.pretrain_steps, with general.pretrain=FOLDER",
    "*data_dir": "data=FOLDER of `pwm pretrain` and `pwm extract`, or general.pretrain=FOLDER",
    "*finetune_wm": "alg.wm_iterations=1 of `pwm extract` also trains the world model",
    "*eval_freq": "general.eval_every",
    "*multitask": MULTITASK,
    "task": "env=NAME, for example env=dflex_ant, or env=dmc env.task=walker-walk; `pwm extract` takes task=",
    "env.env_name": "env.id",
    "tasks": "`pwm pretrain tasks=...`, or `pwm experiment ... 'tasks=[dflex_ant, dflex_hopper]'`",
    "seeds": "`pwm experiment ... seeds=[1,2,3]`",
    "preset": "alg=NAME",
    "buffer.buffer_size": "alg.buffer_size",
    "buffer.batch_size": "alg.wm_batch_size",
    "buffer*": "alg.buffer_size, alg.wm_batch_size and alg.horizon",
    "wandb.name": "general.name",
    "wandb.tags": "wandb.group",
    "wandb.notes": "wandb.group",
    "wandb.job_type": "wandb.group",
    **dict.fromkeys(
        ("obs", "obs_shape*", "action_dim*", "episode_lengths", "seed_steps", "bin_size", "task_title"),
        "env=NAME; sizes are asked of the environment",
    ),
    "work_dir": "general.logdir",
}
# Settings of Hydra -> what does their work here.
HYDRA = {
    "hydra.run*": "general.logdir=FOLDER and general.name=NAME say where a run goes",
    "hydra.sweep*": "`pwm experiment ... seeds=[1,2,3]` makes several runs",
    "hydra/sweeper": "`pwm experiment ... seeds=[1,2,3]` makes several runs",
    "hydra*launcher*": "`pwm experiment ... --jobs N` makes several runs at a time, launch=slurm jobs",
    "hydra.job.chdir": "the working folder stays as it is; general.logdir=FOLDER says where a run goes",
    "*": "general.logdir and general.name say where a run goes, general.progress whether it is shown",
}


def successor(key: str) -> str | None:
    """Return the successor of ``key`` of the predecessors' configurations; None for any other key."""
    return next((advice for pattern, advice in SUCCESSORS.items() if fnmatchcase(key, pattern)), None)


def hydra_advice(key: str) -> str:
    """Return advice on what to use instead of Hydra's setting ``key``."""
    advice = next(advice for pattern, advice in HYDRA.items() if fnmatchcase(key, pattern))
    return f"Hydra's own settings have no effect here; {advice}"
