"""A run in public: the card, the files that leave the machine, and the way to the Hub."""
