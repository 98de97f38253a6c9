"""From the journal to the database: rows and position in one transaction."""
