"""Whether models follow prompts: styles, listed words, and what happens with a wrong list."""
