"""The published procedures, plainly, from the papers' formulas: what cmon's speed is compared with."""
