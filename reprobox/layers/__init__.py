"""The layer kinds: one file for each, with its manifest keys, how it resolves and how it builds."""
