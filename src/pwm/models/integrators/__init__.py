"""Fixed-step explicit integrators of dz/dtau = v(z, a, tau, task) over flow time [0, 1]; one module each."""
