"""Draws a network: layers grouped by module, coloured by which channels are tied together."""
