"""Fixed-step explicit integrators of dz/dtau = v(z, a, tau, task) over flow time [0, 1]."""

from pwm.models.integrators.euler import euler_step
from pwm.models.integrators.explicit_rk import Tableau, VelocityFn, integrate
from pwm.models.integrators.heun import heun_step
from pwm.models.integrators.rk4 import rk4_step

__all__ = ["Tableau", "VelocityFn", "euler_step", "heun_step", "integrate", "rk4_step"]
