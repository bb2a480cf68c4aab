"""What is in an audio file: containers, headers that do not say the truth, readers. The door is
`distill.data.audio`; nothing else opens audio.
"""
