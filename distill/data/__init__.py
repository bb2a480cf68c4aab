"""From audio files to training inputs. Knows no method.

`sources` reads what users have into a manifest, `formats` reads what is in audio files, `speech`
finds and cuts speech, `views` draws what is done to a clip, `teacher_store` keeps what teachers
said, `samples` rebuilds the audio of the demos.
"""
