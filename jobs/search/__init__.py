"""The search for a training strategy: its space, and the plan that it writes."""
