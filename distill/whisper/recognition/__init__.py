"""From audio to text: windows and long recordings, times of words, backends for teachers."""
