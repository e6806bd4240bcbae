"""Networks: encoder, dynamics, reward heads, actors, critics, and the world models made of them."""
