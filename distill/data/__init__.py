"""From audio files to training inputs."""
