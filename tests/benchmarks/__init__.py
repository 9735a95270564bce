"""What the client costs, as ratios against others in the same run: `python -m tests.benchmarks`."""
