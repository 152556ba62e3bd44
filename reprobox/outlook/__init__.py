"""Who can still supply what a lock names, for how long, and what to do about it."""
