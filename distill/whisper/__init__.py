"""Whisper: recipe, teacher, student, task. What it reads is in `data`, decoding of a batch in
`decoding`, from audio to text in `recognition`, other runtimes in `export`, costs by arithmetic in
`plan`. """
