"""From manifests to batches.

    layouts     what stands around the audio in a prompt
    examples    manifests -> examples of tasks
    sequences   an example -> token ids, and which of them are learned
    encoders    what an adapter reads of audio: a Whisper's, a CED's, your own
    teacher     what the language model that reads is given, and what it thinks
    states      the encoder's states of clips, computed once
    no_speech   clips in which nobody speaks
    question_lists  lists as LTU publishes them -> a manifest
    collate     examples -> batches
"""
