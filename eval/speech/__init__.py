"""Speech: teacher and student on a test split, subtitles, tables."""
