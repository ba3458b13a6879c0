"""What cmon's speed is held to: one file a subject, each a list of Rows with their goals."""
