"""What git keeps: commits as bundles, repositories, and the working tree as git would hash it."""
