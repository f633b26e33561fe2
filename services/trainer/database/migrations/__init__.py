"""The migrations of the database, one file for each, in order. A migration that was released is never changed."""
