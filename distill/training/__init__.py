"""The one training loop and what it needs of a method (`task`). Knows no method."""
