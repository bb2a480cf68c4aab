"""From manifests to batches.

    layouts     what stands around the audio in a prompt
    examples    manifests -> examples of tasks
    sequences   an example -> token ids, and which of them are learned
    states      the encoder's states of clips, computed once
    question_lists  lists as LTU publishes them -> a manifest
    collate     examples -> batches
"""
