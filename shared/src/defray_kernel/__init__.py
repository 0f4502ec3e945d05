"""The small library every Defray service stands on; it knows no service."""
