"""Drafts: who proposes tokens (`drafters`), how many (`length`), and in which rounds (`policy`)."""
