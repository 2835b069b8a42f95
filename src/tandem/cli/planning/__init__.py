"""The commands of the planner: `tandem plan` and what it answers."""
