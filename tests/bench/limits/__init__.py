"""What bounds each scenario: the bare loop without durability, rules or framework."""
