"""Which labels are dropped, and why.

    filters                what can be wrong with a label: a function per reason
    translation_filters    the same for translations
    translated             puts translations into the rows of their labels
    sweep_text             the table and the page of `pseudo_label.sweep`

The command that filters is `pseudo_label.filter`.
"""
