"""What a recipe would cost, by arithmetic; needs no torch."""
