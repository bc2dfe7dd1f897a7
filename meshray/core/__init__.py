"""Pure decisions: events in, effects out, time passed in. See `effects.py` for the layout."""
