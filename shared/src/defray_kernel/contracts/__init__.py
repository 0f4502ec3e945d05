"""The published language: all that services may know of each other."""
