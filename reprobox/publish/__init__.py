"""The environment with the paper: a research object that people, journals and archives can read."""
