"""Manifest, lock and project on what already exists: a PDF, an image in a registry, a commit of a git repository."""
