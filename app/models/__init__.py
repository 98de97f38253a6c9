"""What the platform knows: tables, and plain functions that take the database first."""
