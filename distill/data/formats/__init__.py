"""What is in an audio file: containers, headers that do not say the truth, readers. The door is
`distill.data.audio`; nothing else opens audio.

libsndfile decodes (soundfile); `parts.py` and `mp3_frames.py` only tell it where sound begins and
ends, where a header says otherwise. No library at hand does that. Seconds of sound:

    file                             there are   libsndfile 1.2   FFmpeg (PyAV 18)   here
    two WAV files, joined            6           an error         3                  6
    two MP3 files, joined            6           3                6.159              6
    two Ogg files, joined            6           3                6.016 (Vorbis)     6
    two FLAC files, joined           6           3                6                  6
    WAV whose header says 100 bytes  3           0.003            0.003              3
    FLAC that says 4,096 samples     3           0.256            3                  3

FFmpeg would be right about FLAC alone. It has to be installed (the extra `media`), decodes only
from the beginning, and to know that a header is wrong is most of the work here. mutagen reads
headers and tags; it counts no frames.
"""
