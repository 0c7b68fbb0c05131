"""What was evaluated, kept in the database; read as tables and compared."""
