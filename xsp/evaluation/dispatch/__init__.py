"""Many evaluations over many machines: jobs, agents, and what happens when one dies."""
