"""Whether manifest, lock, store, realizations and a rebuild say the same, and where the first difference is."""
