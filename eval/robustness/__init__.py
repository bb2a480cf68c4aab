"""Teacher and student in noise, and where nobody speaks: `python -m eval.robustness RECIPE`."""
