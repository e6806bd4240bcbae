"""What can disturb an environment, any of them; every module except ``base`` is one disturbance."""
