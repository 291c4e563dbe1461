"""The multiple-choice knapsack behind a plan, on plain arrays: its front, its optimum, and the proof."""
