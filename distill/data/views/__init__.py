"""A view is one fully determined training input. Draws by counters, augmentation, batches of views.
"""
