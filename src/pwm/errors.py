"""Errors a user can cause and can fix; the command line prints their message and exits with code 2."""


class PwmError(Exception):
    """Base of every error whose message is written for the user."""


class ConfigError(PwmError):
    """A configuration key, value or combination of values is not allowed."""


class UnknownComponentError(ConfigError):
    """No component of that name exists; the message lists the names that do."""


class EnvError(PwmError):
    """An environment was asked for something it cannot do, or returned something invalid."""


class ActionError(EnvError):
    """An action has the wrong shape or is not finite."""


class CheckpointError(PwmError):
    """A checkpoint is missing, unreadable, incomplete, or belongs to another task."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is missing or its bytes are not those that were written; an older one may do."""


class DataError(PwmError):
    """Training data are missing, too few, or inconsistent."""


class NonFiniteError(PwmError):
    """Training diverged: losses or gradients stayed non-finite, or the policy's actions are."""


class PeerLostError(PwmError):
    """Another process of the same training ended, so that this one cannot go on."""


class StorageError(PwmError):
    """A file of a run could not be written; what was written before is intact."""
