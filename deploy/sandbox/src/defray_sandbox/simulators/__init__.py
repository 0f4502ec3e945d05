"""Outside parties played in the sandbox; they share no code with Defray, so that an error cannot be shared either."""
