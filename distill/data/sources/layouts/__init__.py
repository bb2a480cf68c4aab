"""Folders as users have them: one small function for each layout.

    folder        looks at what is there and calls the reader for it: begin here
    tree          lists the files of a folder, by suffix
    splits        folders called train, dev, test
    file_lists    splits given as lists of files
    speech        Kaldi, LibriSpeech, MLS, LJSpeech, FLEURS
    stm           TEDLIUM
    sidecars      a text of the same name beside each audio file; VCTK, LibriTTS
    sounds        tables with labels: ESC-50, UrbanSound8K, FSD50K, AudioSet
"""
