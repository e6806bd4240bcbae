"""Integrators of flow dynamics, from ``pwm.models.integrators``."""

from pwm.models.integrators import euler_step, heun_step, rk4_step

__all__ = ["euler_step", "heun_step", "rk4_step"]
