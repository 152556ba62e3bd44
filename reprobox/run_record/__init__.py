"""Records of runs: what ran on what, with which result; and whether it gives the same result again."""
