"""The loop that every trainer shares: optimisation, order of items, states, reports."""
