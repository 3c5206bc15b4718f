"""What devices measured, for whoever asks: samples by time, the ledger, dead letters."""
