"""Files that hold trees of files: read as they come, and never trusted."""
