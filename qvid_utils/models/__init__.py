"""Load a model by name: weights, processors without torchvision, the CLIP pair."""
