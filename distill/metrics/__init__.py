"""What is measured: error rates, normalisers, ranking metrics, translation scores. Knows no model.
"""
