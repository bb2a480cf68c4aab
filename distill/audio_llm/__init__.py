"""Audio language models: a frozen speech encoder, an adapter, and a language model with LoRA.

    recipe          what a recipe may say; its stages are data
    language_model  where the language model comes from
    data/           manifests -> batches with exact masks; the encoder's states, computed once
    adapters        encoder frames -> embeddings of the language model
    ctc             the warm start: CTC onto the language model's own embeddings
    settings        what is written beside the weights
    core            both together: sequences, generation
    model           a core that is made, loaded and saved
    remote/         the same for transformers without this package
    module          what the loop trains; losses of a stage
    validation      errors of each task, and whether the model listens
    task            all of it for the loop

MooER (arXiv:2408.05101) and LTU-AS (arXiv:2309.14405) are two recipes of it.
"""
