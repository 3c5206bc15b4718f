"""What the platform costs, measured: ``make bench`` runs everything here and compares it with the goals."""
