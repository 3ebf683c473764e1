"""What a trained model knows: surprisal of a page, rare words, single units."""
