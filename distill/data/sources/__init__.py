"""What users have: layouts of folders, tables and texts, read into clips one at a time."""
