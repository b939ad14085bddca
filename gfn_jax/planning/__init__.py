"""What a run needs of a machine that is not here: its programs, compiled from shapes alone, and what they hold."""
