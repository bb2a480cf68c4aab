"""The console script `audio-distill`: a table of commands, and what only the script has. All else
is in the modules that the table names; nothing imports this package but `python -m distill`."""
