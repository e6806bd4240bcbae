"""Integrators of flow dynamics, from ``pwm.models.integrators``."""

from pwm.models.integrators.euler import euler_step
from pwm.models.integrators.heun import heun_step
from pwm.models.integrators.rk4 import rk4_step

__all__ = ["euler_step", "heun_step", "rk4_step"]
