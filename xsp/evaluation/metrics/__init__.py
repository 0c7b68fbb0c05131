"""What an evaluation is judged by: latency, throughput, memory, energy, cost, accuracy."""
