"""The level of silence behind short clips. No torch here: settings of stores name it."""

# Log-mel features are scaled as OpenAI does: (log10(power) + 4) / 4, cut 8 below the loudest. Then
# silence has the value `loudest - 2`. Moving a clip to LOUDEST, which is a change of its gain,
# gives its silence always the same value.
LOUDEST = 1.35  # recordings of speech have 1.2 to 1.5: most are moved by little
LEVEL = LOUDEST - 2.0
