"""The bench: our services beside a textbook twin and a physical limit, interleaved, each run checked for exactness."""
