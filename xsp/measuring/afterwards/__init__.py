"""What is measured once the rounds are over; the latencies of these runs are not used."""
