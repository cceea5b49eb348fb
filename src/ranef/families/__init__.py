"""Response distributions (families), one per file, and what they share."""
