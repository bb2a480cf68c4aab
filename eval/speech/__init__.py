"""Speech: teacher and student on a test split, subtitles, examples, tables."""
