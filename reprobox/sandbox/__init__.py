"""The embedded backend: rootless, daemonless, one user id, no helper programs."""
