"""What searches have found is trained again: picked by a short training, retrained, transferred, correlated."""
