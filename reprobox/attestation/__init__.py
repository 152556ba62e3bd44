"""Attestations: people sign that they built a lock again, and that it gave what its seal says."""
