"""What training and serving must do alike, bit for bit: normalise texts, embed them, and spell the names of files."""
