"""Where the outside becomes a command: merchants' HTTP, channels' callbacks, order events, due times."""
