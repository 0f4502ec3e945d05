"""The world of payment channels behind one protocol."""
