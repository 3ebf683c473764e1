"""What a trained model knows: the surprisal of each token, rare words, single units."""
