"""Audio language models: measured, compared with a cascade, and asked whether they listen."""
