"""softmax-KL and its kin: from logits, mixed with cross entropy, and from hidden states."""
