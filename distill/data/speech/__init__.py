"""Where people speak, and how clips become windows of at most 30 s."""
