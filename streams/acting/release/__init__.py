"""How weight versions get into robots: offered by the gate, tried, swapped in, kept or not."""
