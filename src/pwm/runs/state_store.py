"""The resumable state of a run: ``latest.pt``, the one before it, and the replay data both refer to.

Replay data are written once: every save adds one file with what was stored since the save before, and
``latest.pt`` names the files that make up the buffer. Saving a long run therefore takes as long as saving a
short one. Each file is replaced atomically and carries checksums, so a kill at any moment leaves either the
old state or the new one, and a damaged ``latest.pt`` costs only the time since the save before.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from pwm.checkpoints import storage
from pwm.data.replay import ReplayBuffer
from pwm.errors import CheckpointError, DamagedCheckpointError, DataError

REPLAY_FORMAT = "flow-pwm/replay"
# More files than this are merged into one: reading them back should not take longer than the data need.
MAX_SEGMENTS = 50
SEGMENT = "{:06d}.pt"
FIRST_SEGMENT = SEGMENT.format(0)
REMEDY = "restore the file from a copy, or start over under another general.name"


class StateStore:
    """Saves and loads the resumable state of one run folder.

    Args:
        folder: the run folder; ``latest.pt``, ``previous.pt`` and ``replay/`` lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self.latest = folder / "latest.pt"
        self.previous = folder / "previous.pt"
        self.replay_folder = folder / "replay"
        # Files that make up the buffer, oldest first, each with the buffer's cursor [N] when it was written.
        self._segments: list[tuple[str, Tensor]] = []
        self._next = 0
        # Files that the last state does not name; the one before may, so they go with the next save.
        self._dropped: set[str] = set()

    @property
    def exists(self) -> bool:
        """True if there is a state to continue from."""
        return self.latest.exists() or self.previous.exists()

    @property
    def lost(self) -> bool:
        """True if there was a state and is none any more: replay data of a second save are left."""
        return not self.exists and any(p.name > FIRST_SEGMENT for p in self.replay_folder.glob("*.pt"))

    def clear(self) -> None:
        """Remove replay data that no state refers to."""
        for path in self.replay_folder.glob("*.pt"):
            path.unlink()

    def save(self, content: dict[str, Any], replay: ReplayBuffer | None) -> None:
        """Write ``content`` (tensors and plain values) together with what is new in ``replay``.

        Raises:
            OSError: nothing was lost: the state saved before is still there.
        """
        segments = [] if replay is None else self._save_replay(replay)
        # Complete before anything is renamed, so that a full disk leaves both older states in place.
        complete = self.latest.with_name(".next.pt.tmp")
        state = {**content, "replay": [list(segment) for segment in segments]}
        storage.save(complete, storage.STATE_FORMAT, state)
        if self.latest.exists():
            os.replace(self.latest, self.previous)
        os.replace(complete, self.latest)
        for unused in self._dropped:
            (self.replay_folder / unused).unlink(missing_ok=True)
        self._dropped = {s for s, _ in self._segments} - {s for s, _ in segments}
        self._segments, self._next = segments, self._next + 1

    def _save_replay(self, replay: ReplayBuffer) -> list[tuple[str, Tensor]]:
        """Write what is new in ``replay``; return the segments that make it up now."""
        segments = self._live(replay)
        since = segments[-1][1] if segments else None
        if len(segments) >= MAX_SEGMENTS:
            segments, since = [], None
        name = SEGMENT.format(self._next)
        storage.save(self.replay_folder / name, REPLAY_FORMAT, replay.state_dict(since))
        return [*segments, (name, replay.cursor.cpu())]

    def load(self, replay: ReplayBuffer | None) -> dict[str, Any]:
        """Fill ``replay`` and return the content of ``latest.pt``, or of the state before if it is damaged.

        Warns:
            RuntimeWarning: ``latest.pt`` is missing or damaged; it is kept as ``damaged.pt``.

        Raises:
            DamagedCheckpointError: neither state can be read.
            CheckpointError: ``latest.pt`` is whole, but of another version or for another buffer.
        """
        try:
            return self._load(self.latest, replay)
        except DamagedCheckpointError as error:
            if not self.previous.exists():
                raise DamagedCheckpointError(f"{error}; {REMEDY}") from error
            try:
                content = self._load(self.previous, replay)
            except DamagedCheckpointError as second:
                raise DamagedCheckpointError(f"{error}; {second}; {REMEDY}") from second
            warnings.warn(f"{error}; continuing from {self.previous}", RuntimeWarning, stacklevel=2)
            # The next save must not put the damaged file in the place of the good one.
            if self.latest.exists():
                os.replace(self.latest, self.latest.with_name("damaged.pt"))
            return content

    def _load(self, path: Path, replay: ReplayBuffer | None) -> dict[str, Any]:
        content = storage.load(path, storage.STATE_FORMAT)
        segments = [(str(name), cursor) for name, cursor in content.pop("replay")]
        if replay is None:
            return content
        states = [storage.load(self.replay_folder / name, REPLAY_FORMAT) for name, _ in segments]
        try:
            replay.load_state_dict(*states)
        except DataError as error:
            raise CheckpointError(f"checkpoint {path}: {error}") from error
        self._segments = segments
        present = {p.name for p in self.replay_folder.glob("*.pt")}
        self._next = 1 + max(int(name.removesuffix(".pt")) for name in present)
        self._dropped = present - {name for name, _ in segments}
        return content

    @property
    def newest(self) -> Path:
        """The file of the state that was saved last.

        Raises:
            CheckpointError: there is none.
        """
        for path in (self.latest, self.previous):
            if path.exists():
                return path
        raise CheckpointError(f"{self.latest.parent} has no saved state")

    def load_replay(self) -> ReplayBuffer:
        """Return the replay memory of the newest state on the CPU; nothing in the folder is changed.

        Raises:
            DamagedCheckpointError: the state or a file of the memory is damaged.
            CheckpointError: there is no state, or it has no replay memory.
        """
        content = storage.load(self.newest, storage.STATE_FORMAT)
        states = [
            storage.load(self.replay_folder / str(name), REPLAY_FORMAT) for name, _ in content["replay"]
        ]
        if not states:
            raise CheckpointError(f"{self.newest} has no replay memory")
        keys = ("num_envs", "obs_dim", "act_dim", "horizon", "rows_per_env")
        n, obs_dim, act_dim, horizon, rows = (int(states[0][key]) for key in keys)
        replay = ReplayBuffer(n * rows, n, obs_dim, act_dim, horizon)
        try:
            replay.load_state_dict(*states)
        except DataError as error:
            raise CheckpointError(f"checkpoint {self.newest}: {error}") from error
        return replay

    def _live(self, replay: ReplayBuffer) -> list[tuple[str, Tensor]]:
        """The segments that still hold a row the buffer has not overwritten."""
        oldest = replay.cursor.cpu() - replay.rows_per_env
        return [(name, cursor) for name, cursor in self._segments if bool((cursor > oldest).any())]
