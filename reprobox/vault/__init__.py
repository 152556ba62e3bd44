"""Vaults: OCI image layouts that keep every input of a lock, so that it is realized when every upstream is gone."""
