"""Audio taggers (CED, arXiv:2308.11957): recipe, task, loss and student.

    model      the tagger itself
    data       clips, and the views that are drawn of them
    teachers   the ensemble that a tagger learns from, and its scores
    export     taggers for other runtimes

Keys of a recipe are in `recipe_sections`, their checks in `recipe`; `tag_loss` has the loss.
"""
