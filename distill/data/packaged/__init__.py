"""Models that package indexes hold, and whether a Hub can be asked first."""
