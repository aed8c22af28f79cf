"""What a supernet's choices choose among: kinds of operations, their sizes, their latencies."""
