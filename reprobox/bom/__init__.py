"""Bills of materials: what an environment is made of, for people and tools that ask for SPDX or CycloneDX."""
