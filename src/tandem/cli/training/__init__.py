"""The commands of training: `tandem train` and `tandem runs`, and what they draw."""
