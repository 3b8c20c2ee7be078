"""How a layout is applied to any workload's training: sample order, feed, replication, checkpoints."""
