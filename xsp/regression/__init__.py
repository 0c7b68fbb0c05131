"""What the pytest plugin does with a profile: budgets, baselines, verdicts and their report."""
