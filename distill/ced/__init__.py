"""Audio taggers: teachers, views, students."""
