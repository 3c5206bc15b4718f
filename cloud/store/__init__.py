"""What the cloud must not forget, in a relational database: SQLite by default, PostgreSQL by URL."""
