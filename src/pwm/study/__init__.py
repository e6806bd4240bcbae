"""Studies of many runs, as `pwm experiment` makes them: planned, trained, compared, reported."""
