"""From manifests and labels to what Whisper trains on: windows, views, stored scores."""
