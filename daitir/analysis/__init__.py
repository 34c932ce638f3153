"""Instruments: where an encoder looks, how its space lies, what a view shows that is false."""
