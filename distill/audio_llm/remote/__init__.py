"""Loading a saved model without this package: `modeling` is the model as transformers has it,
`code` copies it, and what it needs, beside the weights."""
