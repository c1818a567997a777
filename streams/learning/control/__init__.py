"""Control policies: a perceptron that acts in environments, and how it is sampled and trained."""
