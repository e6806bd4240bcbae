"""``pwm pretrain`` and ``pwm extract``: ``train_multitask.py --config-name config_mt30 alg=pwm_48M_flow``."""

import sys

from pwm.launch.multitask import run_multitask

if __name__ == "__main__":
    sys.exit(run_multitask(sys.argv[1:]))
