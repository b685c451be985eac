"""Commands to meters, and what gives them: operators, gaps, rollouts."""
