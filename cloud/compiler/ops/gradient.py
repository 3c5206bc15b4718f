"""What only backward passes need."""
