"""Costs and errors of our ways beside others', both measured in one run."""
