"""Whisper: recipe, teacher, student, task.

    data           what is trained on: windows, views, stored scores
    encoder        from audio to encoder states
    decoding       from encoder states to tokens, a batch at a time
    recognition    from audio to text
    export         students for other runtimes
    plan           costs of a recipe, by arithmetic

Keys of a recipe are in `recipe_sections`, their checks in `recipe`; `model` has the loss.
"""
