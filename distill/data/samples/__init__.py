"""Where the embedded audio of the demos comes from, and sounds that scenes are mixed of."""
