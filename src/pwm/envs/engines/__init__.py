"""Physics engines: batched state in, batched state out; they know no tasks and no rewards."""
